package auditlog

import (
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Proof shows that a line was sealed, to everyone who has the public key: nothing of the home is needed. The path of RecordPath leads
// from the record to the checkpoint, that of LinePath from the line to the record.
type Proof struct {
	File       string `json:"file"` // as it was called when it was sealed
	Part       int    `json:"part"`
	Line       uint64 `json:"line"`
	Entry      string `json:"entry"` // the line itself
	LinePath   path   `json:"line_path"`
	Record     string `json:"record"` // the line of records.jsonl
	RecordPath path   `json:"record_path"`
	Checkpoint string `json:"checkpoint"`
}

// Extension shows that the log of one checkpoint is a continuation of the log of an earlier one: nothing in it was changed since.
type Extension struct {
	From string `json:"from"` // the earlier checkpoint
	To   string `json:"to"`
	Path path   `json:"path"`
}

// path is a Merkle proof: hashes in base64.
type path [][]byte

// MarshalJSON writes a list of texts.
func (p path) MarshalJSON() ([]byte, error) {
	texts := []string{}
	for _, h := range p {
		texts = append(texts, base64.StdEncoding.EncodeToString(h))
	}
	return json.Marshal(texts)
}

// UnmarshalJSON reads a list of hashes; a tree of 2^63 leaves needs no more than 64 of a path, and a consistency proof one more.
func (p *path) UnmarshalJSON(data []byte) error {
	var texts []string
	if err := json.Unmarshal(data, &texts); err != nil {
		return err
	}
	if len(texts) > 65 {
		return errors.New("a path has 65 hashes at most")
	}
	*p = path{}
	for _, text := range texts {
		h, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil || len(h) != hashSize {
			return fmt.Errorf("%.60q is no hash", text)
		}
		*p = append(*p, h)
	}
	return nil
}

// ParseProof reads a Proof or an Extension; the other result is nil.
func ParseProof(data []byte) (*Proof, *Extension, error) {
	var either struct {
		Proof
		Extension
	}
	if err := json.Unmarshal(data, &either, json.RejectUnknownMembers(true)); err != nil {
		return nil, nil, fmt.Errorf("read proof: %w", err)
	}
	switch {
	case either.To != "" && either.Checkpoint == "":
		return nil, &either.Extension, nil
	case either.Checkpoint != "" && either.To == "":
		return &either.Proof, nil, nil
	}
	return nil, nil, errors.New("read proof: it is neither of a line nor of a checkpoint")
}

// Verify returns the record that has sealed the line and the checkpoint that covers it, or why the proof proves nothing.
func (p *Proof) Verify(publicKey []byte) (Record, Checkpoint, error) {
	key, err := parseVerifier(publicKey)
	if err != nil {
		return Record{}, Checkpoint{}, err
	}
	checkpoint, err := OpenCheckpoint([]byte(p.Checkpoint), key)
	if err != nil {
		return Record{}, Checkpoint{}, err
	}
	record, err := parseRecord([]byte(p.Record))
	if err != nil {
		return Record{}, Checkpoint{}, fmt.Errorf("read the record: %w", err)
	}
	leaf := leafHash([]byte(p.Record))
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, record.Number, checkpoint.Size, leaf[:], p.RecordPath, checkpoint.Root[:]); err != nil {
		return Record{}, Checkpoint{}, fmt.Errorf("the record isn't in the log that the checkpoint has signed: %w", err)
	}
	leaf = leafHash([]byte(p.Entry))
	for _, s := range record.Sealed {
		if s.File != p.File || s.Part != p.Part || p.Line < s.First || p.Line > s.last() {
			continue
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, p.Line-s.First, s.Lines, leaf[:], p.LinePath, s.Root[:]); err != nil {
			return Record{}, Checkpoint{}, fmt.Errorf("the line isn't the one that was sealed: %w", err)
		}
		return record, checkpoint, nil
	}
	return Record{}, Checkpoint{}, fmt.Errorf("the record isn't about line %d of %s", p.Line, part{p.File, p.Part})
}

// Verify returns both checkpoints, or why the proof proves nothing.
func (e *Extension) Verify(publicKey []byte) (from, to Checkpoint, err error) {
	key, err := parseVerifier(publicKey)
	if err != nil {
		return from, to, err
	}
	if from, err = OpenCheckpoint([]byte(e.From), key); err != nil {
		return from, to, fmt.Errorf("the earlier one: %w", err)
	}
	if to, err = OpenCheckpoint([]byte(e.To), key); err != nil {
		return from, to, fmt.Errorf("the later one: %w", err)
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, from.Size, to.Size, e.Path, from.Root[:], to.Root[:]); err != nil {
		return from, to, fmt.Errorf("the later log is no continuation of the earlier one: %w", err)
	}
	return from, to, nil
}
