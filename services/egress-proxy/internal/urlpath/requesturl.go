package urlpath

import (
	"net/url"
	"strings"
)

// RequestURL returns a URL for net/http whose request target is exactly target: a path and query that begin with "/", or "*".
//
// A path that begins with two slashes must be in the form that net/url gives it: net/http would take an Opaque of that form for a host, so it
// is written from the URL's parts instead.
func RequestURL(scheme, host, target string) *url.URL {
	u := &url.URL{Scheme: scheme, Host: host, Opaque: target}
	if strings.HasPrefix(target, "//") {
		u.Opaque = ""
		u.RawPath, u.RawQuery, u.ForceQuery = strings.Cut(target, "?")
		u.ForceQuery = u.ForceQuery && u.RawQuery == ""
		u.Path, _ = url.PathUnescape(u.RawPath)
	}
	return u
}
