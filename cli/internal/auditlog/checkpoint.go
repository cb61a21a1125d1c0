package auditlog

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// maxCheckpoint bounds what is read of a file with a checkpoint or a key, in bytes.
const maxCheckpoint = 16 << 10

// Checkpoint says what a log was at one moment. Whoever holds one can later be shown that nothing before it was changed.
type Checkpoint struct {
	Origin string // the log's name, which is its key's, too: "rumi-audit/<home id>"
	Size   uint64 // records
	Root   hash   // of the tree of these
}

// text is the form that is signed: https://c2sp.org/tlog-checkpoint.
func (c Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
}

// sign returns the checkpoint as a signed note.
func (c Checkpoint) sign(signer note.Signer) ([]byte, error) {
	signed, err := note.Sign(&note.Note{Text: c.text()}, signer)
	if err != nil {
		return nil, fmt.Errorf("sign checkpoint: %w", err)
	}
	return signed, nil
}

// OpenCheckpoint reads a checkpoint that the verifier's key has signed. Signatures of others may be there, too, and lines after the
// first three are for them.
func OpenCheckpoint(data []byte, verifier note.Verifier) (Checkpoint, error) {
	opened, err := note.Open(data, note.VerifierList(verifier))
	var unsigned *note.UnverifiedNoteError
	if errors.As(err, &unsigned) {
		return Checkpoint{}, fmt.Errorf("the checkpoint isn't signed by the key %s", verifier.Name())
	} else if err != nil {
		return Checkpoint{}, fmt.Errorf("the checkpoint has no valid signature: %w", err)
	}
	lines := strings.SplitN(opened.Text, "\n", 4)
	if len(lines) < 4 {
		return Checkpoint{}, errors.New("the checkpoint has fewer than three lines")
	}
	c := Checkpoint{Origin: lines[0]}
	if c.Origin != verifier.Name() {
		return Checkpoint{}, fmt.Errorf("the checkpoint is of the log %q, want %q", c.Origin, verifier.Name())
	}
	if c.Size, err = strconv.ParseUint(lines[1], 10, 63); err != nil || strconv.FormatUint(c.Size, 10) != lines[1] {
		return Checkpoint{}, fmt.Errorf("the checkpoint's size %q is no number", lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != hashSize {
		return Checkpoint{}, errors.New("the checkpoint's third line is no hash")
	}
	c.Root = hash(root)
	return c, nil
}

// NewKey makes a key for the log of a home: the private one for the sealer, and the public one with which everybody can verify.
func NewKey(home string) (private, public string, err error) {
	return note.GenerateKey(rand.Reader, "rumi-audit/"+home)
}

// PublicKey derives the public key from the private one.
func PublicKey(private string) (string, error) {
	private = strings.TrimSpace(private)
	if _, err := note.NewSigner(private); err != nil {
		return "", fmt.Errorf("read signing key: %w", err)
	}
	// "PRIVATE+KEY+<name>+<hash>+<base64 of the algorithm and the seed>"
	fields := strings.SplitN(private, "+", 5)
	key, err := base64.StdEncoding.DecodeString(fields[4])
	if err != nil {
		return "", fmt.Errorf("read signing key: %w", err)
	}
	public := ed25519.NewKeyFromSeed(key[1:]).Public().(ed25519.PublicKey)
	return note.NewEd25519VerifierKey(fields[2], public)
}

// parseVerifier reads a public key from the content of its file.
func parseVerifier(data []byte) (note.Verifier, error) {
	verifier, err := note.NewVerifier(string(bytes.TrimSpace(data)))
	if err != nil {
		return nil, fmt.Errorf("read public key of the audit log: %w (want NAME+HASH+KEY, as in user_data/settings/%s)", err, PublicKeyFile)
	}
	return verifier, nil
}
