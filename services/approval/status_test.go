package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// The history of a pack tells what each approval was about; where a tree was lost, all else is told still.
func TestStatusOfALongHistory(t *testing.T) {
	w := start(t)
	dir := w.pack("demo")
	var digests []string
	for i := range 5 {
		w.write(filepath.Join(dir, "backend/main.py"), fmt.Sprint("version ", i))
		approved, err := w.call("POST", "/api/packs/demo/approve", nil)
		w.check(err)
		digests = append(digests, approved["digest"].(string))
	}
	lost := digests[2]
	w.check(os.Remove(filepath.Join(w.UserData(), "approved/manifests", lost[len("sha256:"):]+".json")))
	status, err := w.call("GET", "/api/packs/demo/status", nil)
	w.check(err)
	seen := map[string]string{} // digest → the hash of what changed
	for _, e := range status["approval"].(map[string]any)["version_history"].([]any) {
		event := e.(map[string]any)
		hashes := event["file_hashes"].(map[string]any)
		digest, _ := event["digest"].(string)
		if known := digest != "" && digest != lost; known != (len(hashes) > 0) {
			t.Errorf("%v of %q: %v; want hashes where the tree is kept, and only there", event["action"], digest, hashes)
		}
		if len(hashes) > 0 {
			seen[digest] = hashes["backend/main.py"].(string)
		}
	}
	different := map[string]bool{}
	for _, hash := range seen {
		different[hash] = true
	}
	if len(seen) != 4 || len(different) != 4 {
		t.Errorf("trees in the history: %v; want 4 of them", seen)
	}
}
