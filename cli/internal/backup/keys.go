package backup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/rumi-ai/rumi/libs/atomicfile"
)

const maxKeyFile = 64 << 10

// Recipients reads for whom a backup is encrypted: public keys of age (age1…), separated by commas or spaces, and those of a file, one a line.
func Recipients(list, file string) ([]age.Recipient, error) {
	lines := strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(", \t\n", r) })
	if file != "" {
		data, err := readSmall(file)
		if err != nil {
			return nil, fmt.Errorf("read the recipients: %w", err)
		}
		lines = append(lines, string(data))
	}
	if len(lines) == 0 {
		return nil, nil
	}
	found, err := age.ParseRecipients(strings.NewReader(strings.Join(lines, "\n") + "\n"))
	if err != nil {
		return nil, fmt.Errorf("read the recipients: %w; each is a public key that begins with age1", err)
	}
	return found, nil
}

// Identities reads the private keys of a file that NewIdentity or age-keygen has made.
func Identities(file string) ([]age.Identity, error) {
	data, err := readSmall(file)
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	found, err := age.ParseIdentities(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s holds no key of age", file) // the cause is left out: it may quote the file
	}
	return found, nil
}

// Passphrase is a passphrase as recipient and as identity. Whoever writes with it can read with it.
func Passphrase(text string) (age.Recipient, age.Identity, error) {
	to, err := age.NewScryptRecipient(text)
	if err != nil {
		return nil, nil, errors.New("the passphrase is empty")
	}
	from, err := age.NewScryptIdentity(text)
	if err != nil {
		return nil, nil, errors.New("the passphrase is empty")
	}
	return to, from, nil
}

// PassphraseFile reads a passphrase: the first line of a file.
func PassphraseFile(file string) (string, error) {
	data, err := readSmall(file)
	if err != nil {
		return "", fmt.Errorf("read the passphrase: %w", err)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

func readSmall(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(data) > maxKeyFile {
		err = fmt.Errorf("%s is larger than %d bytes", file, maxKeyFile)
	}
	return data, err
}

// NewIdentity makes a key, writes it to a new file (0600), and returns its public part, for Recipients.
func NewIdentity(file string) (recipient string, err error) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf("# public key: %s\n%s\n", key.Recipient(), key)
	if err := atomicfile.WritePath(file, []byte(text), 0o600, atomicfile.NoReplace()); err != nil {
		return "", fmt.Errorf("write the key: %w", err)
	}
	return key.Recipient().String(), nil
}

// listener is a Recipient that remembers the key of the one file that is encrypted with it. So a program that has only public keys can read
// back what it has just written, to verify it, and nobody else gets a key.
type listener struct {
	age.Recipient
	key []byte
}

// Wrap implements age.Recipient.
func (l *listener) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	l.key = slices.Clone(fileKey)
	return l.Recipient.Wrap(fileKey)
}

// WrapWithLabels implements age.RecipientWithLabels, which some recipients need in the place of Wrap.
func (l *listener) WrapWithLabels(fileKey []byte) ([]*age.Stanza, []string, error) {
	l.key = slices.Clone(fileKey)
	if labelled, ok := l.Recipient.(age.RecipientWithLabels); ok {
		return labelled.WrapWithLabels(fileKey)
	}
	stanzas, err := l.Recipient.Wrap(fileKey)
	return stanzas, nil, err
}

// identity opens the file that was encrypted.
func (l *listener) identity() age.Identity { return age.NewInjectedFileKeyIdentity(l.key) }
