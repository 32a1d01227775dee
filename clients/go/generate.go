package main

// The plugins: go install google.golang.org/protobuf/cmd/protoc-gen-go@latest google.golang.org/grpc/cmd/protoc-gen-go-grpc@latest

//go:generate sh -c "cd ../.. && PATH=\"$PWD/.venv/bin:$PATH:$(go env GOPATH)/bin\" buf generate --template clients/go/buf.gen.yaml"
