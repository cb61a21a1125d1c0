package urlpath

import "testing"

func TestRequestURLs(t *testing.T) {
	for _, path := range []string{"/", "*", "/a?b", "//a?b", "//a", "/?", "//?", "/%zz", "/a b"} {
		if got := RequestURL("http", "h:80", path).RequestURI(); got != path {
			t.Errorf("RequestURL(%q) is sent as %q", path, got)
		}
	}
}
