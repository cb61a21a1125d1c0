package urlpath

import (
	"net/url"
	pathpkg "path"
	"strings"
	"testing"
)

func TestNormalize(t *testing.T) {
	for in, want := range map[string]string{
		"/": "/", "/a/b": "/a/b", "/a/": "/a/", "/%61/%7e%2D": "/a/~-", "/%2f%3a%c3%a4": "/%2F%3A%C3%A4",
		"/a/./b": "/a/b", "/a/../b": "/b", "/a/%2e%2E/b": "/b", "/a/.%2e/b": "/b", "/../../x": "/x", "/a/..": "/", "/a/b/..": "/a/", "/a/.": "/a/",
		"/.": "/", "/..": "/", "/a//b": "/a//b", "/a//../b": "/a/b", "/.well-known/x": "/.well-known/x", "/a/...": "/a/...", "/a/..b": "/a/..b",
		"/%252e%252e/x": "/%252e%252e/x", "/a/%2e%2e%2fb": "/a/..%2Fb",
	} {
		if got := Normalize(in); got != want {
			t.Errorf("%s becomes %s, want %s", in, got, want)
		} else if again := Normalize(got); again != got {
			t.Errorf("%s becomes %s, and that %s; want the same", in, got, again)
		}
	}
}

func TestPlain(t *testing.T) {
	for _, path := range []string{"/", "/a", "/a/", "/a/b.c", "/.well-known/x", "/a%20b", "/%C3%A4", "/a;v=1/b", "/100%25", "/100%25/x", "/~x", "/a..b", "/..b"} {
		if !Plain(path) {
			t.Errorf("%s is not plain, want it plain", path)
		}
	}
	for _, path := range []string{
		"", "a", "*", "//", "//a", "/a//b", "/a/%2F", "/a%2fb", "/a%5Cb", "/a\\b", "/a%00", "/a%0d", "/a%7F", "/%C0%AE%C0%AE/a", "/%FF",
		"/%252e%252e/a", "/a%252Fb", "/..", "/../a", "/a/./b", "/..;/a", "/..%3Bx/a", "/.;x/a", "/...", "/..%20/a", "/%20/a", "/;x/a", "/a%", "/a%2", "/a%zz",
	} {
		if Plain(path) {
			t.Errorf("%s is plain, want it refused", path)
		}
	}
}

func TestPrefixes(t *testing.T) {
	for text, want := range map[string]string{"/": "/", "/v1": "/v1", "/v1/": "/v1/", "/ä b": "/%C3%A4%20b", "/%7Ex": "/~x", "/.well-known": "/.well-known", "/%c3%a4": "/%C3%A4"} {
		if got, err := ParsePrefix(text); err != nil || got != want {
			t.Errorf("%s becomes %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"", "v1", "*", "/v1?x", "/v1?", "/v1#x", "//host/x", "/a//b", "/a/../b", "/a/%2e%2e/b", "/a%2fb", "/%zz", "/a\nb", "/..;/x", "http://x/", "/" + strings.Repeat("a", MaxPrefix)} {
		if got, err := ParsePrefix(text); err == nil {
			t.Errorf("%.50q is taken as the prefix %.50q, want an error", text, got)
		}
	}
	for _, tt := range []struct {
		path, prefix string
		want         bool
	}{
		{"/v1", "/v1", true}, {"/v1/", "/v1", true}, {"/v1/x", "/v1", true}, {"/v1x", "/v1", false}, {"/v", "/v1", false}, {"/V1", "/v1", false},
		{"/v1", "/v1/", false}, {"/v1/", "/v1/", true}, {"/v1/x", "/v1/", true}, {"/", "/", true}, {"/x", "/", true}, {"/v1;x", "/v1", false}, {"/v1%2Fx", "/v1", false},
	} {
		if got := Under(tt.path, tt.prefix); got != tt.want {
			t.Errorf("%s under %s: %v, want %v", tt.path, tt.prefix, got, tt.want)
		}
	}
}

// Whatever is plain after normalisation, a server that decodes and cleans it once more finds where it was judged to be.
func FuzzPlain(f *testing.F) {
	for _, seed := range []string{"/v1/../x", "/v1/%2e%2e%2fx", "/v1/..;/x", "/v1//x", "/v1/%252e%252e/x", "/v1/\\..\\x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		u, err := url.Parse("http://host/" + strings.TrimPrefix(path, "/"))
		if err != nil || u.Host != "host" {
			return
		}
		sent := Normalize(u.EscapedPath())
		if again := Normalize(sent); again != sent {
			t.Fatalf("%q becomes %q, and that %q; want the same", path, sent, again)
		}
		if !Plain(sent) || !Under(sent, "/v1") {
			return
		}
		decoded, _ := url.PathUnescape(sent)
		twice, err := url.PathUnescape(decoded)
		if err != nil {
			twice = decoded
		}
		for _, seen := range []string{decoded, twice} {
			if cleaned := pathpkg.Clean(strings.ReplaceAll(seen, "\\", "/")); cleaned != "/v1" && !strings.HasPrefix(cleaned, "/v1/") {
				t.Fatalf("%q is sent as %q, which may be read as %q", path, sent, cleaned)
			}
		}
	})
}
