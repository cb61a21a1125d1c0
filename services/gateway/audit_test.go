package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/origin"
)

type auditPage struct {
	Entries  []jsontext.Value `json:"entries"`
	Next     string           `json:"next"`
	Complete bool             `json:"complete"`
}

// find asks GET /api/audit.
func (w *world) find(t *testing.T, token, query string) auditPage {
	t.Helper()
	answer := w.as(t, token, "GET", "/api/audit?"+query, "")
	var page struct {
		Success bool      `json:"success"`
		Data    auditPage `json:"data"`
	}
	if err := json.Unmarshal([]byte(answer.raw), &page); err != nil || !page.Success {
		t.Fatalf("GET /api/audit?%s: got %s (%v)", query, answer.raw, err)
	}
	return page.Data
}

func TestAuditIsAsked(t *testing.T) {
	w := newWorld(t, nil)
	log, err := audit.Open(w.UserData()+"/audit", "egress-proxy", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	write := func(request, pack string, success bool, details map[string]any) {
		t.Helper()
		ctx := origin.With(context.Background(), origin.Origin{RequestID: request, Actor: "pack:" + pack})
		e := audit.Entry{Category: audit.Network, Action: "network_request", OwnerPack: pack, Success: success, Details: details}
		if !success {
			e.RejectionReason = "no grant for evil.example.net"
		}
		if err := log.Write(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 250 {
		write(fmt.Sprintf("R%d", i), "weather", true, map[string]any{"host": "api.example.com", "n": i})
	}
	write("denied-1", "evil", false, map[string]any{"host": "EVIL.example.net", "odd": "\u2028\x01</é"})

	t.Run("a denial is explained by its request id in one call", func(t *testing.T) {
		page := w.find(t, apiToken, "request_id=denied-1")
		if len(page.Entries) != 1 || page.Next != "" || !page.Complete || !strings.Contains(string(page.Entries[0]), `"rejection_reason":"no grant for evil.example.net"`) {
			t.Fatalf("got %+v, want the one entry with its reason, and no more", page)
		}
		if raw := string(page.Entries[0]); !strings.Contains(raw, `"odd":"\u2028\u0001</é"`) {
			t.Errorf("got %s, want the entry byte for byte as it is in the file", raw)
		}
	})
	t.Run("filters", func(t *testing.T) {
		for query, want := range map[string]int{
			"pack_id=weather&limit=1000": 250, "pack_id=weather": 100, "success=false&category=network": 1, "q=EVIL.example&category=network": 1,
			"pack_id=evil&since=1h": 1, "pack_id=evil&until=1h": 0, "pack_id=evil&since=-1h": 1, "actor=pack:evil": 1, "action=network_request&pack_id=evil": 1,
			"category=approval,permission": 0, "pack_id=" + url.QueryEscape("no such pack"): 0, "trace_id=0123": 0,
		} {
			if got := len(w.find(t, apiToken, query).Entries); got != want {
				t.Errorf("%s: got %d entries, want %d", query, got, want)
			}
		}
	})
	t.Run("pages", func(t *testing.T) {
		var got []string
		for cursor := ""; ; {
			page := w.find(t, apiToken, "pack_id=weather&limit=77&cursor="+cursor)
			for _, e := range page.Entries {
				got = append(got, string(e))
			}
			if cursor = page.Next; cursor == "" {
				break
			}
		}
		if len(got) != 250 || !strings.Contains(got[0], `"n":249`) || !strings.Contains(got[249], `"n":0`) {
			t.Errorf("got %d entries, want all 250 from the newest to the oldest", len(got))
		}
	})
	t.Run("what can't be asked", func(t *testing.T) {
		for query, code := range map[string]string{
			"pack=weather": "unknown_parameter", "category=nothing": "invalid_field", "success=maybe": "invalid_field", "since=yesterday": "invalid_field",
			"until=2026-13-01": "invalid_field", "since=2026-01-02&until=2026-01-01": "invalid_field", "limit=1001": "invalid_field", "limit=-1": "invalid_field",
			"limit=x": "invalid_field", "cursor=AAAA": "invalid_cursor", "q=" + strings.Repeat("x", 1025): "value_too_long", "q=a&q=b": "invalid_field",
		} {
			if answer := w.as(t, apiToken, "GET", "/api/audit?"+query, ""); answer.status != 400 || !strings.Contains(answer.raw, `"error_code":"`+code+`"`) {
				t.Errorf("%.60s: got %d %s, want 400 %s", query, answer.status, answer.raw, code)
			}
		}
	})
}

// Entries tell what everybody does: a token for some packs finds those of these packs only.
func TestAuditIsNarrowedToPacks(t *testing.T) {
	w := newWorld(t, nil)
	log, err := audit.Open(w.UserData()+"/audit", "egress-proxy", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for _, pack := range []string{"a", "b", "c", ""} {
		if err := log.Write(context.Background(), audit.Entry{Category: audit.Network, Action: "network_request", OwnerPack: pack}); err != nil {
			t.Fatal(err)
		}
	}
	token := w.issue(t, `{"name": "narrow", "role": "viewer", "scopes": [{"verbs": ["audit.read"], "packs": ["a", "b"]}]}`).Token
	for query, want := range map[string]int{"pack_id=a": 1, "pack_id=b&action=network_request": 1, "category=network": 2, "category=security": 0} {
		if got := len(w.find(t, token, query).Entries); got != want {
			t.Errorf("%s: got %d entries, want %d", query, got, want)
		}
	}
	if answer := w.as(t, token, "GET", "/api/audit?pack_id=c", ""); answer.status != 403 {
		t.Errorf("pack_id=c: got %d %s, want 403", answer.status, answer.raw)
	}
}
