package roster_test

import (
	"os"
	"slices"
	"testing"

	"github.com/rumi-ai/rumi/libs/roster"
)

// The services are the folders under services/, and each is listed once.
func TestServicesAreTheFolders(t *testing.T) {
	entries, err := os.ReadDir("../../services")
	if err != nil {
		t.Fatal(err)
	}
	var folders []string
	for _, e := range entries {
		if e.IsDir() {
			folders = append(folders, e.Name())
		}
	}
	if names := roster.Names(); !slices.Equal(names, folders) {
		t.Errorf("the roster lists %v; the folders under services/ are %v", names, folders)
	}
}

func TestHas(t *testing.T) {
	for _, name := range roster.Names() {
		if !roster.Has(name) {
			t.Errorf("Has(%q) = false, want true", name)
		}
	}
	for _, name := range []string{"", "Gateway", "gateway ", "consul"} {
		if roster.Has(name) {
			t.Errorf("Has(%q) = true, want false", name)
		}
	}
}
