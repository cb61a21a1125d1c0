// Command upstream is the server that the journeys' packs reach through the egress proxy, if it is granted. It runs in the network of an
// egress-proxy's container, on a loopback address there, so that no packet of a journey leaves the machine.
//
//	/hello        the scheme and the Host of the request
//	/trace        the traceparent of the request
//	/sum          the length and SHA-256 of the body
//	/big?bytes=N  N zero bytes
//	/events       two server-sent events; the second one is sent only after a request for /next
//	/moved        a redirect to a host that isn't granted
//	/git/         a repository, code.git, over git's own protocol
//
// It logs "serving" when it listens, and then each request.
package main

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cgi"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/e2e/internal/upstream"
)

func main() {
	dir := flag.String("dir", "", "folder with cert.pem and key.pem")
	secure := flag.String("https", "", "addresses to serve HTTPS on, separated by commas")
	plain := flag.String("http", "", "address to serve HTTP on")
	repository := flag.String("git", "", "folder to make a repository in; none unless set")
	flag.Parse()
	if err := serve(*dir, *secure, *plain, *repository); err != nil {
		log.Fatal("upstream: ", err)
	}
}

// serve runs the servers. It returns the error of the first one that ends.
func serve(dir, secure, plain, repository string) error {
	routes := http.NewServeMux()
	routes.HandleFunc("/hello", hello)
	routes.HandleFunc("/trace", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("Traceparent")) })
	routes.HandleFunc("/sum", sum)
	routes.HandleFunc("/big", big)
	next := make(chan struct{}, 1)
	routes.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) { events(w, r, next) })
	routes.HandleFunc("/next", func(http.ResponseWriter, *http.Request) { next <- struct{}{} })
	routes.Handle("/moved", http.RedirectHandler("https://other.rumi.test:8443/hello", http.StatusFound))
	if repository != "" {
		if err := makeRepository(repository); err != nil {
			return err
		}
		path, err := exec.Command("git", "--exec-path").Output()
		if err != nil {
			return fmt.Errorf("find git's programs: %w", err)
		}
		routes.Handle("/git/", &cgi.Handler{
			Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"), Root: "/git",
			Env: []string{"GIT_PROJECT_ROOT=" + repository, "GIT_HTTP_EXPORT_ALL=1"},
		})
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.Print("asked ", r.Context().Value(http.LocalAddrContextKey), " ", r.Method, " ", r.Host, r.URL.Path)
		routes.ServeHTTP(w, r)
	})
	failure := make(chan error)
	for address := range strings.SplitSeq(secure, ",") {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		go func() {
			failure <- http.ServeTLS(l, handler, filepath.Join(dir, upstream.CertFile), filepath.Join(dir, upstream.KeyFile))
		}()
	}
	if plain != "" {
		l, err := net.Listen("tcp", plain)
		if err != nil {
			return err
		}
		go func() { failure <- http.Serve(l, handler) }()
	}
	log.Print("serving")
	return <-failure
}

func hello(w http.ResponseWriter, r *http.Request) {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	fmt.Fprintf(w, "hello from %s://%s", scheme, r.Host)
}

func sum(w http.ResponseWriter, r *http.Request) {
	digest := sha256.New()
	n, err := io.Copy(digest, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%s of %d bytes, %x", r.Method, n, digest.Sum(nil))
}

func big(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.FormValue("bytes"), 10, 64)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	zeros := make([]byte, 64<<10)
	for ; n > 0; n -= int64(len(zeros)) {
		if _, err := w.Write(zeros[:min(n, int64(len(zeros)))]); err != nil {
			return
		}
	}
}

// events sends the second event only after a request for /next, which the client sends when it has read the first. So a proxy that holds
// events back makes the client wait for ever: the test doesn't depend on times.
func events(w http.ResponseWriter, r *http.Request, next <-chan struct{}) {
	w.Header().Set("Content-Type", "text/event-stream")
	flush := func(text string) error {
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
		return http.NewResponseController(w).Flush()
	}
	if flush("data: first\n\n") != nil {
		return
	}
	select {
	case <-next:
	case <-r.Context().Done():
		return
	}
	_ = flush("data: second\n\n") // an error means that the client has gone
}

// makeRepository makes code.git with one commit: a file of 4 MiB of random bytes, which can't be compressed. Every client may push.
func makeRepository(dir string) error {
	noise := make([]byte, 4<<20)
	rand.Read(noise)
	bare := filepath.Join(dir, "code.git")
	for _, step := range []struct {
		input io.Reader
		args  []string
	}{
		{nil, []string{"init", "--quiet", "--bare", "--initial-branch=main", bare}},
		{nil, []string{"-C", bare, "config", "http.receivepack", "true"}},
		{fastImport(noise), []string{"-C", bare, "fast-import", "--quiet"}},
	} {
		cmd := exec.Command("git", step.args...)
		cmd.Stdin = step.input
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("make repository: git %s: %w", strings.Join(step.args, " "), errors.Join(err, errors.New(string(out))))
		}
	}
	return nil
}

// fastImport returns a commit of a file "noise" in the format of git-fast-import(1).
func fastImport(content []byte) io.Reader {
	head := fmt.Sprintf("commit refs/heads/main\ncommitter t <t@rumi.test> %d +0000\ndata 5\nfirst\nM 644 inline noise\ndata %d\n", time.Now().Unix(), len(content))
	return io.MultiReader(strings.NewReader(head), strings.NewReader(string(content)), strings.NewReader("\n"))
}
