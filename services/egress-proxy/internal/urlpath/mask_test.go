package urlpath

import (
	"strings"
	"testing"
)

func TestMask(t *testing.T) {
	for path, want := range map[string]string{
		"":                                     "",
		"/":                                    "/",
		"/v1/models":                           "/v1/models",
		"/v1/models/":                          "/v1/models/",
		"/v1/chat/completions":                 "/v1/chat/completions",
		"/a//b":                                "/a//b",
		"/models/gpt-4o-mini-2024-07-18":       "/models/gpt-4o-mini-2024-07-18",
		"/models/claude-3-5-sonnet-20241022/x": "/models/claude-3-5-sonnet-20241022/x",
		"/2026/11/30/how-to-build-a-house-in-five-steps":                             "/2026/11/30/how-to-build-a-house-in-five-steps",
		"/images/IMG20240101123456.jpg":                                              "/images/IMG20240101123456.jpg",
		"/%E5%A4%A9%E6%B0%97":                                                        "/%E5%A4%A9%E6%B0%97",
		"/getUserAccountInformation":                                                 "/getUserAccountInformation",
		"/bot123456789:AAH-canary-Zx81kQ/sendMessage":                                "/***/sendMessage",
		"/bot1:a/getMe":                                                              "/***/getMe",
		"/file/bot123456789%3AAAH-canary-Zx81kQ/a.jpg":                               "/file/***/a.jpg",
		"/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXX1234":                     "/services/T00000000/B00000000/***",
		"/api/webhooks/123456789012345678/aBcD-eFgH_1jKlMnOpQrStUvWxYz0123456789ABC": "/api/webhooks/123456789012345678/***",
		"/hook/0f8fad5b-d9cb-469f-a165-70867728950e":                                 "/hook/***",
		"/x;jsessionid=0123456789abcdef0123456789abcdef/y":                           "/***/y",
		"/t/abcdefghijklmnopqrstuvwxyzabcdef":                                        "/t/***",
		"/t/%73k-Abcdefgh12345678":                                                   "/t/***",
		"*":                                                                          "*",
	} {
		if got := Mask(path); got != want {
			t.Errorf("Mask(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestBeforeMasked(t *testing.T) {
	for path, want := range map[string]string{
		"/v1/models":        "/v1/models",
		"/v1/":              "/v1/",
		"/***/sendMessage":  "/",
		"/api/hooks/***":    "/api/hooks/",
		"/api/***/x/***/y/": "/api/",
		"/api/***x":         "/api/***x",
	} {
		if got := BeforeMasked(path); got != want {
			t.Errorf("BeforeMasked(%q) = %q, want %q", path, got, want)
		}
	}
}

func FuzzMask(f *testing.F) {
	f.Add("/bot1:x/y")
	f.Add("//%zz/")
	f.Fuzz(func(t *testing.T, path string) {
		got := Mask(path)
		if strings.Count(got, "/") != strings.Count(path, "/") {
			t.Errorf("Mask(%q) = %q: another number of segments", path, got)
		}
		if again := Mask(got); again != got {
			t.Errorf("Mask(%q) = %q, and once more %q; want the same", path, got, again)
		}
	})
}
