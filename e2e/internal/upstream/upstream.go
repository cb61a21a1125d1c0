package upstream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
)

// seenFile is the file in which a server records its requests, one JSON object a line.
const seenFile = "seen.jsonl"

// Request is a recorded request.
type Request struct {
	Method        string `json:"method"`
	Host          string `json:"host"`
	Path          string `json:"path"`
	Authorization string `json:"authorization"` // SHA-256 of the header's value in hexadecimal; "" for none
}

// Fingerprint is the form of an Authorization header in Request: its SHA-256, so that the file contains no secret.
func Fingerprint(authorization string) string {
	if authorization == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(authorization))
	return hex.EncodeToString(sum[:])
}

// Seen reads the requests that the server of dir has received since its start.
func Seen(dir string) ([]Request, error) {
	data, err := os.ReadFile(filepath.Join(dir, seenFile))
	if err != nil {
		return nil, fmt.Errorf("read requests: %w", err)
	}
	var seen []Request
	for line := range bytes.Lines(data) {
		var r Request
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("read requests: %w", err)
		}
		seen = append(seen, r)
	}
	return seen, nil
}

// Serve serves HTTPS on l with the certificate in dir until ctx ends. It answers GET /v1/today with a weather forecast if the request has a bearer
// token. It records every request in seenFile.
func Serve(ctx context.Context, l net.Listener, dir string) error {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, CertFile), filepath.Join(dir, KeyFile))
	if err != nil {
		return fmt.Errorf("serve upstream: %w", err)
	}
	seen, err := os.OpenFile(filepath.Join(dir, seenFile), os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("serve upstream: %w", err)
	}
	defer seen.Close()
	server := &http.Server{
		Handler:           &forecast{seen: seen},
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          log.New(os.Stderr, "upstream: ", 0),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve upstream: %w", err)
	}
	return nil
}

// forecast is the handler of Serve.
type forecast struct {
	mu   sync.Mutex
	seen *os.File
}

func (f *forecast) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	authorization := r.Header.Get("Authorization")
	line, err := json.Marshal(Request{
		Method: r.Method, Host: r.Host, Path: r.URL.Path, Authorization: Fingerprint(authorization),
	})
	if err == nil {
		f.mu.Lock()
		_, err = f.seen.Write(append(line, '\n'))
		f.mu.Unlock()
	}
	if err != nil {
		http.Error(w, "could not write the request down", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.URL.Path != "/v1/today":
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintln(w, `{"error": "no such place"}`)
	case len(authorization) <= len("Bearer "):
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintln(w, `{"error": "a key is needed"}`)
	default:
		fmt.Fprintln(w, `{"place": "Kyoto", "summary": "clear, a light wind from the north", "high_c": 17, "low_c": 8}`)
	}
}
