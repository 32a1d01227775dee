package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "aistats-gateway-example/gen/aistats/gateway/v1"
)

func main() {
	key := os.Getenv("GATEWAY_KEY")
	if key == "" {
		written, err := os.ReadFile("../../data/bootstrap-key")
		check(err)
		key = strings.TrimSpace(string(written))
	}
	target := os.Getenv("GATEWAY_TARGET")
	if target == "" {
		target = "127.0.0.1:8080"
	}
	channel, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err)
	defer channel.Close()
	base := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+key)
	chat := pb.NewChatServiceClient(channel)

	request := &pb.CreateChatCompletionRequest{
		Model: "local/smollm2-135m:free",
		Messages: []*pb.Message{{
			Role:  pb.Role_ROLE_USER,
			Parts: []*pb.ContentPart{{Part: &pb.ContentPart_Text{Text: &pb.TextPart{Text: "Say hello."}}}},
		}},
	}

	// One answer.
	reply, err := chat.CreateChatCompletion(base, request)
	check(err)
	fmt.Println(reply.Choices[0].Parts[0].GetText().GetText(), reply.Usage.OutputTokens)

	// A stream with a deadline, left after five pieces: the provider stops too.
	ctx, leave := context.WithTimeout(base, time.Minute)
	defer leave()
	events, err := chat.StreamChatCompletion(ctx, request)
	check(err)
	for shown := 0; shown < 5; {
		event, err := events.Recv()
		if err == io.EOF {
			break
		}
		check(err)
		if delta := event.GetTextDelta(); delta != nil {
			fmt.Print(delta.Text)
			shown++
		}
	}
	leave()
	fmt.Println()

	// What went wrong, and when to try again.
	_, err = pb.NewModelsServiceClient(channel).GetModel(base, &pb.GetModelRequest{ModelId: "nobody/nothing"})
	failure := status.Convert(err)
	fmt.Println(failure.Code(), failure.Message())
	for _, detail := range failure.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			fmt.Println(detail.Reason, detail.Metadata)
		case *errdetails.RetryInfo:
			fmt.Println("try again in", detail.RetryDelay.AsDuration())
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
