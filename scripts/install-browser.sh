#!/bin/sh
# The picture of the page at /docs is taken in Chromium. This makes sure that it is there.
set -eu

if [ -x /usr/bin/chromium ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "this needs Chromium at /usr/bin/chromium, and the machine has no apt to install it with" >&2
    exit 1
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    as_root="sudo -n"
fi
echo "installing chromium (once)"
$as_root apt-get update -qq
$as_root apt-get install -y -qq --no-install-recommends chromium fonts-liberation >/dev/null
