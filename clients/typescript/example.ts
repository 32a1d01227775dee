import { readFileSync } from "node:fs";
import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { ChatService } from "./gen/aistats/gateway/v1/chat_pb.js";
import { Role } from "./gen/aistats/gateway/v1/content_pb.js";
import { ModelsService } from "./gen/aistats/gateway/v1/models_pb.js";
import { ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";

const baseUrl = process.env.GATEWAY_URL ?? "http://127.0.0.1:8080";
const key = process.env.GATEWAY_KEY ?? readFileSync("../../data/bootstrap-key", "utf8").trim();

const authorise: Interceptor = (next) => (call) => {
  call.header.set("authorization", `Bearer ${key}`);
  return next(call);
};
const transport = createGrpcTransport({ baseUrl, interceptors: [authorise] });
const chat = createClient(ChatService, transport);
const models = createClient(ModelsService, transport);

const request = {
  model: "local/smollm2-135m:free",
  messages: [
    { role: Role.USER, parts: [{ part: { case: "text" as const, value: { text: "Say hello." } } }] },
  ],
};

// One answer.
const reply = await chat.createChatCompletion(request, { timeoutMs: 60_000 });
const part = reply.choices[0].parts[0].part;
console.log(part.case === "text" ? part.value.text : part.case, reply.usage?.outputTokens);

// A stream with a deadline, left after five pieces: the provider stops too.
const leave = new AbortController();
let shown = 0;
try {
  for await (const { event } of chat.streamChatCompletion(request, { timeoutMs: 60_000, signal: leave.signal })) {
    if (event.case === "textDelta") {
      process.stdout.write(event.value.text);
      shown += 1;
      if (shown === 5) leave.abort();
    } else if (event.case === "completed") {
      console.log("\n", event.value.usage?.outputTokens, "tokens");
    }
  }
} catch (error) {
  if (ConnectError.from(error).code !== Code.Canceled) throw error;
  console.log("\nleft");
}

// What went wrong, and when to try again.
try {
  await models.getModel({ modelId: "nobody/nothing" }, { timeoutMs: 10_000 });
} catch (error) {
  const failure = ConnectError.from(error);
  const [info] = failure.findDetails(ErrorInfoSchema);
  const [retry] = failure.findDetails(RetryInfoSchema);
  console.log(Code[failure.code], failure.rawMessage, info?.reason, info?.metadata, retry?.retryDelay);
}
