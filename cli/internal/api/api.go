// Package api calls the suite's API for commands: with the token of the Rumi home, at the gateway in the suite's network or at any other URL.
package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	timeout   = 30 * time.Second
	maxAnswer = 64 << 20 // bytes
	inSuite   = "gateway:8080"
)

// Flags say where the API is, and with which token. Their zero values are the gateway in the suite's network and the token of the home.
type Flags struct {
	Home      string `help:"The Rumi home, for its API token." default:"/rumi" type:"path"`
	URL       string `help:"The API, such as http://localhost:8765. Default: the gateway in the suite's network." name:"url" optional:""`
	TokenFile string `help:"File with the API token. Default: that of the home." name:"token-file" type:"path" optional:""`
}

// Client calls the API.
type Client struct {
	url, token string
	http       *http.Client
}

// Open reads the token.
func (f Flags) Open() (*Client, error) {
	settings := filepath.Join(f.Home, "user_data", "settings")
	path := f.TokenFile
	if path == "" {
		path = filepath.Join(settings, "api_token")
	}
	token, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the API token: %w (name its file with --token-file)", err)
	}
	c := &Client{url: strings.TrimRight(f.URL, "/"), token: strings.TrimSpace(string(token)), http: &http.Client{Timeout: timeout}}
	if c.url != "" {
		return c, nil
	}
	certificates, err := served(filepath.Join(settings, "tls", "server.pem"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.url = "http://" + inSuite
	case err != nil:
		return nil, fmt.Errorf("read the certificate of the API: %w", err)
	default:
		c.url = "https://" + inSuite
		c.http.Transport = pinned(certificates)
	}
	return c, nil
}

// served are the certificates in the gateway's copy of the operator's file, in DER.
func served(path string) (certificates [][]byte, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			certificates = append(certificates, block.Bytes)
		}
	}
	if len(certificates) == 0 {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return certificates, nil
}

// pinned trusts exactly the certificate of the home: its name is that under which the operator's clients know the gateway, and not the one in the
// suite's network.
func pinned(certificates [][]byte) http.RoundTripper {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{
		MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, //nolint:gosec // VerifyPeerCertificate compares the whole certificate
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			if len(raw) == 0 || !bytes.Equal(raw[0], certificates[0]) {
				return errors.New("the gateway shows another certificate than that of this home")
			}
			return nil
		},
	}
	return transport
}

// Error is a failure that the API has answered.
type Error struct {
	Status int    // of HTTP
	Code   string // error_code
	Text   string
}

func (e *Error) Error() string { return fmt.Sprintf("%s (%d %s)", e.Text, e.Status, e.Code) }

// Call posts body as JSON, or gets where body is nil, and decodes the data of the answer. A failure of the API is an *Error.
func (c *Client) Call(ctx context.Context, method, path string, body, into any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return fmt.Errorf("write the request: %w", err)
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("call the API: %w", err)
	}
	if strings.HasSuffix(c.url, "//"+inSuite) {
		request.Host = "localhost" // the gateway refuses names that it doesn't know: RUMI_ALLOWED_HOSTS
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("call the API: %w (does the suite run? docker compose up --detach)", err)
	}
	defer response.Body.Close()
	return decode(response, into)
}

func decode(response *http.Response, into any) error {
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the answer of the API: %w", err)
	}
	var envelope struct {
		Success bool           `json:"success"`
		Data    jsontext.Value `json:"data"`
		Error   *string        `json:"error"`
		Code    string         `json:"error_code"`
	}
	if err := json.Unmarshal(text, &envelope); err != nil {
		return fmt.Errorf("read the answer of the API (status %d): %w", response.StatusCode, err)
	}
	if !envelope.Success {
		failed := &Error{Status: response.StatusCode, Code: envelope.Code}
		if envelope.Error != nil {
			failed.Text = *envelope.Error
		}
		return failed
	}
	if err := json.Unmarshal(envelope.Data, into); err != nil {
		return fmt.Errorf("read the answer of the API: %w", err)
	}
	return nil
}
