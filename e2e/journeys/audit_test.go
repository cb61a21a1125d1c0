package journeys

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// page is an answer of GET /api/audit.
type page struct {
	Entries  []jsontext.Value `json:"entries"`
	Next     string           `json:"next"`
	Complete bool             `json:"complete"`
}

func findAudit(t *testing.T, query string) (p page) {
	t.Helper()
	if err := get(t, "/api/audit?"+query).Into(&p); err != nil {
		t.Fatal(err)
	}
	if !p.Complete {
		t.Errorf("GET /api/audit?%s isn't complete, want all within the time of a call", query)
	}
	return p
}

// TestAuditAsked asks why something was refused, and what a pack did, in one call each. An index that is gone, and a gateway that starts anew, change no answer.
func TestAuditAsked(t *testing.T) {
	const id = "asked"
	refused := post(t, "/api/network/check", map[string]any{"pack_id": id, "domain": "api.example.com", "port": 443})
	why := findAudit(t, "request_id="+refused.RequestID)
	if len(why.Entries) == 0 || !strings.Contains(string(why.Entries[0]), `"rejection_reason":`) {
		t.Fatalf("for the request that was refused: got %s, want an entry with the reason", why.Entries)
	}
	entry := string(why.Entries[0])
	logged, err := filepath.Glob(filepath.Join(suite.home, "user_data/audit/*_"+entry[len(`{"ts":"`):len(`{"ts":"2026-01-31`)]+".jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, name := range logged {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		found = found || strings.Contains(string(data), entry+"\n")
	}
	if !found {
		t.Errorf("no file of the log has the line %s that was answered", entry)
	}
	before := walkAudit(t, "pack_id="+id+"&since=1h", 2)
	if len(before) == 0 {
		t.Error("the pack's last hour is empty, want what was refused")
	}

	if _, err := suite.compose(t.Context(), "stop", "gateway"); err != nil {
		t.Fatal(err)
	}
	segments, err := filepath.Glob(filepath.Join(suite.home, "user_data/audit_index/*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range segments {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := suite.compose(t.Context(), "start", "gateway"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), readyWait)
	defer cancel()
	if err := suite.awaitService(ctx, "approval"); err != nil { // through the gateway
		t.Fatal(err)
	}
	if after := walkAudit(t, "pack_id="+id+"&since=1h", 2); strings.Join(after, "\n") != strings.Join(before, "\n") {
		t.Errorf("without the index, after a new start: got %d entries, want the same %d", len(after), len(before))
	}
}

// walkAudit turns pages to the end.
func walkAudit(t *testing.T, query string, limit int) (entries []string) {
	t.Helper()
	for cursor, pages := "", 0; pages < 1000; pages++ {
		p := findAudit(t, query+"&limit="+strconv.Itoa(limit)+"&cursor="+cursor)
		for _, e := range p.Entries {
			entries = append(entries, string(e))
		}
		if cursor = p.Next; cursor == "" {
			return entries
		}
	}
	t.Fatal("a thousand pages, and no end")
	return nil
}
