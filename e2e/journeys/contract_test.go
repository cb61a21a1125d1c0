package journeys

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"testing"

	"github.com/rumi-ai/rumi/api/openapi"
	"github.com/rumi-ai/rumi/e2e/internal/contract"
)

// checker compares everything that the journeys ask with the document of the API.
var checker = sync.OnceValues(func() (*contract.Checker, error) { return contract.New([]byte(openapi.Document())) })

// watch puts the checker's proxy before the gateway at an address, and returns the proxy's address. The proxy ends with the process.
func watch(gateway string) (string, error) {
	c, err := checker()
	if err != nil {
		return "", err
	}
	target, err := url.Parse(gateway)
	if err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() {
		if err := http.Serve(l, c.Handler(target)); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "the proxy before the gateway ended:", err)
		}
	}()
	return fmt.Sprintf("http://localhost:%d", l.Addr().(*net.TCPAddr).Port), nil
}

// reportContract prints what the document and the suite say differently, and what of the document was never seen. It returns whether they agree.
func reportContract() bool {
	c, err := checker()
	if err != nil {
		fmt.Fprintln(os.Stderr, "read the document of the API:", err)
		return false
	}
	c.Close()
	fmt.Print(c.Report())
	violations := c.Violations()
	for _, v := range violations {
		fmt.Fprintln(os.Stderr, "not as the document of the API says:", v)
	}
	return len(violations) == 0
}

// The gateway's image serves the document that the journeys are checked against, and its page, to whoever has no token.
func TestDocumentOfTheAPI(t *testing.T) {
	for path, want := range map[string]string{"/openapi.json": openapi.Document(), "/docs": ""} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, suite.base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || want != "" && string(body) != want {
			t.Errorf("GET %s answered %d with %d bytes (%v), want the document of this source", path, response.StatusCode, len(body), err)
		}
	}
}
