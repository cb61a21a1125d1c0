package edge

import (
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/api/openapi"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/services/gateway/internal/docs"
)

// openPaths answer without a token. They say nothing of the installation.
var openPaths = map[string]func(http.ResponseWriter, *http.Request) error{
	"/": func(w http.ResponseWriter, _ *http.Request) error {
		return rpc.WriteData(w, gateway.Welcome{
			Name: "Rumi",
			Use:  "the API is under /api/, with the header Authorization: Bearer TOKEN; begin with GET /api/health",
			Docs: "/docs, or /openapi.json for programs; README.md and docs/api.md in the folder that Rumi was installed from",
		})
	},
	"/healthz": func(w http.ResponseWriter, _ *http.Request) error {
		return rpc.WriteData(w, gateway.Alive{Status: "ok"})
	},
	"/openapi.json": serveDocument,
	"/docs":         serveDocs,
}

// serveOpen answers what needs no token.
func serveOpen(w http.ResponseWriter, r *http.Request) error {
	serve := openPaths[r.URL.Path]
	if serve == nil {
		return fault.NoRoute()
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", http.MethodGet)
		return fault.MethodNotAllowed()
	}
	return serve(w, r)
}

// serveDocument answers the OpenAPI document. Pages of any origin may read it: it is the same for every installation of a version.
func serveDocument(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Access-Control-Allow-Origin", "*")
	return serveFixed(w, r, documentTag(), openapi.Document())
}

// serveDocs answers the document as a page for a person.
func serveDocs(w http.ResponseWriter, r *http.Request) error {
	page, err := docs.Page()
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", docs.Policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	return serveFixed(w, r, tagOf(page), page)
}

// serveFixed answers a text that is the same until the gateway is replaced. A client that has it is answered 304. (http.ServeContent would do
// the same, but answers some headers with failures that have no envelope.)
func serveFixed(w http.ResponseWriter, r *http.Request, tag, text string) error {
	h := w.Header()
	h.Set("ETag", tag)
	h.Set("Cache-Control", "no-cache") // kept, and asked for again each time
	for known := range strings.SplitSeq(r.Header.Get("If-None-Match"), ",") {
		if known = strings.TrimPrefix(strings.TrimSpace(known), "W/"); known == tag || known == "*" {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	h.Set("Content-Length", strconv.Itoa(len(text)))
	_, err := io.WriteString(w, text)
	return err
}

var documentTag = sync.OnceValue(func() string { return tagOf(openapi.Document()) })

// tagOf is a strong entity tag of a text.
func tagOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
}
