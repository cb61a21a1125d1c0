package token

import (
	"crypto/rand"
	"crypto/sha256"
	"hash/crc32"
	"strings"
)

// A token is the text rumi_<id>_<secret><checksum>. Its form lets secret scanners find it in a repository or a log without asking anybody:
// by the regular expression \brumi_[a-z0-9]{12}_[0-9A-Za-z]{36}\b, and by the checksum, which no text has by chance that merely looks like one.
// docs/tokens.md has the form for their authors.
const (
	prefix      = "rumi_"
	idLen       = 12 // of [a-z0-9]: 62 bits, so that ids never meet
	secretLen   = 30 // of [0-9A-Za-z]: 178 random bits
	checksumLen = 6  // of [0-9A-Za-z]: CRC-32 (IEEE) of all before it, most significant digit first
	textLen     = len(prefix) + idLen + 1 + secretLen + checksumLen

	digits     = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	idAlphabet = "0123456789abcdefghijklmnopqrstuvwxyz"
)

// hash is what is kept of a secret: SHA-256. A slow hash would protect a password, which a person has chosen and which can be guessed. Of
// 178 random bits nobody guesses any, however fast the hash is; and the check is done for each request.
type hash [sha256.Size]byte

// newID makes an id.
func newID() string { return random(idAlphabet, idLen) }

// newText makes a token with an id, and the hash of its secret.
func newText(id string) (text string, of hash) {
	secret := random(digits, secretLen)
	text = prefix + id + "_" + secret
	return text + checksum(text), sha256.Sum256([]byte(secret))
}

// parse takes a token apart. ok is false for a text of another form or with a wrong checksum.
func parse(text string) (id string, of hash, ok bool) {
	if len(text) != textLen || !strings.HasPrefix(text, prefix) || text[len(prefix)+idLen] != '_' {
		return "", hash{}, false
	}
	body, sum := text[:textLen-checksumLen], text[textLen-checksumLen:]
	id, secret := body[len(prefix):len(prefix)+idLen], body[len(prefix)+idLen+1:]
	if !isID(id) || checksum(body) != sum {
		return "", hash{}, false
	}
	return id, sha256.Sum256([]byte(secret)), true
}

// isID says whether a text has the form of an id.
func isID(s string) bool {
	return len(s) == idLen && strings.Trim(s, idAlphabet) == ""
}

func checksum(body string) string {
	var out [checksumLen]byte
	n := crc32.ChecksumIEEE([]byte(body))
	for i := checksumLen - 1; i >= 0; i-- {
		out[i] = digits[n%62]
		n /= 62
	}
	return string(out[:])
}

// random makes a text of n characters, each of alphabet with the same probability: bytes beyond the largest multiple of its length are
// drawn again.
func random(alphabet string, n int) string {
	limit := byte(256 / len(alphabet) * len(alphabet))
	out := make([]byte, 0, n)
	var drawn [64]byte
	for {
		_, _ = rand.Read(drawn[:]) // it never fails
		for _, b := range drawn {
			if b < limit {
				if out = append(out, alphabet[int(b)%len(alphabet)]); len(out) == n {
					return string(out)
				}
			}
		}
	}
}
