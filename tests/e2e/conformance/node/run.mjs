// Runs the cases against a gateway, and prints a line of JSON for each: {method, name, result, reason}.
//
//     node run.mjs --list | node run.mjs URL KEY [part of a method's name]

import { cases } from "./cases.mjs";

const CASE_LIMIT_MS = 30_000;
const MODEL = "acme/test-1:free";

const [first, key, wanted = ""] = process.argv.slice(2);
const chosen = cases.filter(({ method }) => method.includes(wanted));

if (first === "--list") {
  for (const { method, name } of cases) print({ method, name });
} else {
  const context = await prepare(first, key);
  for (const { method, name, run } of chosen) print({ method, name, ...(await outcome(run, context)) });
  process.exit(0); // whatever a failed case left open
}

async function prepare(baseURL, apiKey) {
  globalThis.AI_SDK_LOG_WARNINGS = false;
  const [ai, { createOpenAI }, { createOpenAICompatible }, { z }] = await Promise.all([
    import("ai"),
    import("@ai-sdk/openai"),
    import("@ai-sdk/openai-compatible"),
    import("zod"),
  ]);
  const openai = createOpenAI({ baseURL, apiKey });
  const compatible = createOpenAICompatible({
    name: "gateway",
    baseURL,
    apiKey,
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
  const models = {
    "openai-compatible": (id = MODEL) => compatible(id),
    "openai.chat": (id = MODEL) => openai.chat(id),
    "openai.responses": (id = MODEL) => openai.responses(id),
  };
  return { ai, z, openai, compatible, models, baseURL, createOpenAI };
}

async function outcome(run, context) {
  const limit = AbortSignal.timeout(CASE_LIMIT_MS);
  const late = new Promise((_, reject) => limit.addEventListener("abort", () => reject(limit.reason)));
  try {
    return { result: "ok", reason: "", ...(await Promise.race([run(context), late])) };
  } catch (error) {
    return { result: "failed", reason: `${error.name}: ${error.message}` };
  }
}

function print(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}
