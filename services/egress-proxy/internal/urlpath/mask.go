package urlpath

import (
	"net/url"
	"regexp"
	"strings"
)

// Masked replaces a segment that looks like a credential.
const Masked = "***"

// Lengths from which a run of letters and digits looks like a credential. Random tokens of the services that put theirs into
// paths are longer than that (Slack 24, Discord 68, Telegram 35); names that people give are shorter, or have separators.
const (
	minMixed = 16 // capitals, small letters and digits, with separators or without
	minRun   = 20 // letters and digits without a separator
	minAny   = 32 // anything without a separator
)

var (
	// telegramToken is the first segment of a call of Telegram's bot API: "bot", an id, a colon, the token.
	telegramToken = regexp.MustCompile(`^(?:bot|user)\d+:`)
	uuid          = regexp.MustCompile(`(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
)

// Mask replaces each segment of an escaped path that looks like a credential by Masked. Some services put credentials into the path
// of a URL (Telegram's bot token, webhooks of Slack and Discord), and neither a log nor a proposal may show them. The form
// of the segment decides, so this is a guess: a credential that looks like a word isn't found.
func Mask(path string) string {
	masked, start := "", 0
	for i := 0; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		if segment := path[start:i]; secretLike(segment) {
			masked += Masked
		} else {
			masked += segment
		}
		if i < len(path) {
			masked += "/"
		}
		start = i + 1
	}
	return masked
}

// BeforeMasked gives a masked path up to its first masked segment, and the whole path if there is none.
func BeforeMasked(path string) string {
	before, _, _ := strings.Cut(path+"/", "/"+Masked+"/")
	if before == path+"/" {
		return path
	}
	return before + "/"
}

func secretLike(segment string) bool {
	if len(segment) < minMixed {
		return telegramToken.MatchString(segment)
	}
	if decoded, err := url.PathUnescape(segment); err == nil {
		segment = decoded
	}
	if telegramToken.MatchString(segment) || uuid.MatchString(segment) {
		return true
	}
	// Parameters ("x;token=abc") are looked at one by one.
	for part := range strings.FieldsFuncSeq(segment, func(c rune) bool { return strings.ContainsRune(";=,:@&.", c) }) {
		if mixed(part) || longRun(part) {
			return true
		}
	}
	return false
}

// mixed says whether s has the length and the kinds of characters of a random token in Base64.
func mixed(s string) bool {
	var upper, lower, digit bool
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'A' && c <= 'Z':
			upper = true
		case c >= 'a' && c <= 'z':
			lower = true
		case c >= '0' && c <= '9':
			digit = true
		}
	}
	return len(s) >= minMixed && upper && lower && digit
}

// longRun says whether s has a run of letters and digits that is too long for a word.
func longRun(s string) bool {
	letters, digits := 0, 0
	long := func() bool {
		return letters > 0 && digits > 0 && letters+digits >= minRun || letters+digits >= minAny
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z':
			letters++
		case c >= '0' && c <= '9':
			digits++
		default:
			if long() {
				return true
			}
			letters, digits = 0, 0
		}
	}
	return long()
}
