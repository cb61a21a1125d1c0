// Command collector stands in for the collector of traces in the journeys. It prints each span that it gets, as a line of JSON
// (tracingtest.Span).
package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/tracing/tracingtest"
)

func main() {
	address := flag.String("listen", ":4318", "where to take spans")
	flag.Parse()
	if err := serve(*address); err != nil {
		fmt.Fprintln(os.Stderr, "collector:", err)
		os.Exit(1)
	}
}

func serve(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "serving")
	server := http.Server{Handler: new(printer), ReadHeaderTimeout: 5 * time.Second}
	return server.Serve(l)
}

// printer prints what a receiver gets.
type printer struct {
	mu       sync.Mutex
	receiver tracingtest.Receiver
}

// ServeHTTP implements http.Handler.
func (p *printer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.receiver.ServeHTTP(w, r)
	for _, span := range p.receiver.Spans() {
		line, err := json.Marshal(span)
		if err != nil {
			fmt.Fprintln(os.Stderr, "collector:", err)
			continue
		}
		fmt.Println(string(line))
	}
	p.receiver.Forget()
}
