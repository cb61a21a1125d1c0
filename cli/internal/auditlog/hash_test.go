package auditlog

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/transparency-dev/merkle/rfc6962"
)

// The trees must be those of RFC 6962, so that any other program can verify them.
func TestTreesAreThoseOfRFC6962(t *testing.T) {
	theirs := rfc6962.DefaultHasher
	if got, want := rootOf(nil), theirs.EmptyRoot(); !bytes.Equal(got[:], want) {
		t.Errorf("root of no leaves is %x, want %x", got, want)
	}
	var leaves []byte
	compacted := tree.NewEmptyRange(0)
	for n := 1; n <= 70; n++ {
		line := fmt.Appendf(nil, "line %d", n)
		leaf := leafHash(line)
		if want := theirs.HashLeaf(line); !bytes.Equal(leaf[:], want) {
			t.Fatalf("leaf %d is %x, want %x", n, leaf, want)
		}
		leaves = append(leaves, leaf[:]...)
		if err := compacted.Append(leaf[:], nil); err != nil {
			t.Fatal(err)
		}
		want, err := compacted.GetRootHash(nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := rootOf(bytes.Clone(leaves)); !bytes.Equal(got[:], want) {
			t.Errorf("root of %d leaves is %x, want %x", n, got, want)
		}
	}
	left, right := leaves[:hashSize], leaves[hashSize:2*hashSize]
	if got, want := nodeHash(left, right), theirs.HashChildren(left, right); !bytes.Equal(got[:], want) {
		t.Errorf("node is %x, want %x", got, want)
	}
}
