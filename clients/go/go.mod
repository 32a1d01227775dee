module aistats-gateway-example

go 1.24
