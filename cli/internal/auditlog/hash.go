package auditlog

import (
	"crypto/sha256"

	"github.com/transparency-dev/merkle/compact"
)

// hashSize is the size of a hash in bytes.
const hashSize = sha256.Size

// hash is a node of a tree: SHA-256 as RFC 6962 uses it.
type hash [hashSize]byte

// RFC 6962 begins what is hashed with a byte that says whether it is a leaf or a node, so that none can pass as the other.
const (
	leafPrefix = 0
	nodePrefix = 1
)

// leafHash is the hash of a line or of a record, without its newline.
func leafHash(data []byte) hash {
	return sha256.Sum256(append([]byte{leafPrefix}, data...))
}

// nodeHash is the hash of an inner node.
func nodeHash(left, right []byte) hash {
	var both [1 + 2*hashSize]byte
	both[0] = nodePrefix
	copy(both[1:], left)
	copy(both[1+hashSize:], right)
	return sha256.Sum256(both[:])
}

// tree makes compact ranges of trees.
var tree = compact.RangeFactory{Hash: func(left, right []byte) []byte {
	h := nodeHash(left, right)
	return h[:]
}}

// rootOf is the root of the tree over leaves, which are one hash after the other and are overwritten. It is the tree of RFC 6962, made
// level by level in place: millions of lines a second may have to be hashed, and compact.Range allocates for each.
func rootOf(leaves []byte) hash {
	if len(leaves) == 0 {
		return sha256.Sum256(nil)
	}
	for len(leaves) > hashSize {
		next := leaves[:0]
		for len(leaves) >= 2*hashSize {
			h := nodeHash(leaves[:hashSize], leaves[hashSize:2*hashSize])
			leaves = leaves[2*hashSize:]
			next = append(next, h[:]...)
		}
		leaves = append(next, leaves...) // the last one, if it has no partner, goes up as it is
	}
	return hash(leaves)
}
