package access

import (
	"fmt"
	"slices"
	"strings"
)

// Scope is one permission of a token: its verbs on its packs.
//
//	Scope{Verbs: []Pattern{"packs.approve"}, Packs: []string{"weather"}} // approve the pack weather, and nothing else
//
// A scope never gives more than the role of the token has.
type Scope struct {
	Verbs []Pattern `json:"verbs"`
	Packs []string  `json:"packs,omitzero"` // whole ids: "weather" is not "weather__child". Left out: every pack, and calls that name no pack
}

// Pattern is a verb, or several: "packs.approve", "packs.*", "*.read", "*". A star stands for a whole part. It also matches verbs that
// a later version adds.
type Pattern string

// Matches says whether a verb is one of the pattern's.
func (p Pattern) Matches(v Verb) bool { return p == "*" || p.covers(string(v)) }

// Known says whether the pattern matches a verb of this version.
func (p Pattern) Known() bool { return slices.ContainsFunc(Verbs(), p.Matches) }

// covers compares part by part; other is a verb or a pattern.
func (p Pattern) covers(other string) bool {
	if p == "*" {
		return true
	}
	noun, act, ok := strings.Cut(string(p), ".")
	otherNoun, otherAct, otherOK := strings.Cut(other, ".")
	return ok && otherOK && (noun == "*" || noun == otherNoun) && (act == "*" || act == otherAct)
}

// Scopes narrow what the role of a token may do: a call must be covered by one of them. None at all narrow nothing.
type Scopes []Scope

// Allow says whether the scopes have a verb on a pack. pack is "" for a call that names no pack, or several: only a scope without packs
// covers that, because nobody can say which packs such a call is about before it is answered.
func (s Scopes) Allow(v Verb, pack string) bool {
	return len(s) == 0 || v == ReadSelf || slices.ContainsFunc(s, func(scope Scope) bool {
		return scope.matches(v) && (len(scope.Packs) == 0 || pack != "" && slices.Contains(scope.Packs, pack))
	})
}

// Mention says whether the scopes have a verb at all, if only on some packs.
func (s Scopes) Mention(v Verb) bool {
	return len(s) == 0 || v == ReadSelf || slices.ContainsFunc(s, func(scope Scope) bool { return scope.matches(v) })
}

// Packs are the packs on which the scopes have a verb; all says that it is every pack, and calls that name none. Sorted; the slice is the caller's.
func (s Scopes) Packs(v Verb) (packs []string, all bool) {
	if s.Allow(v, "") {
		return nil, true
	}
	for _, scope := range s {
		if scope.matches(v) {
			packs = append(packs, scope.Packs...)
		}
	}
	slices.Sort(packs)
	return slices.Compact(packs), false
}

func (s Scope) matches(v Verb) bool {
	return slices.ContainsFunc(s.Verbs, func(p Pattern) bool { return p.Matches(v) })
}

// Cover says whether s allows all that other allows, now and with the verbs of later versions. So each pattern of other, on each pack, must
// be within a pattern of s: that a list names every verb which "packs.*" stands for today isn't enough.
func (s Scopes) Cover(other Scopes) bool {
	if len(s) == 0 {
		return true
	}
	if len(other) == 0 {
		return false
	}
	for _, scope := range other {
		for _, p := range scope.Verbs {
			if len(scope.Packs) == 0 && !s.coverOn(p, "") {
				return false
			}
			for _, pack := range scope.Packs {
				if !s.coverOn(p, pack) {
					return false
				}
			}
		}
	}
	return true
}

// coverOn says whether one of the scopes has a whole pattern on a pack; pack is "" for every pack.
func (s Scopes) coverOn(p Pattern, pack string) bool {
	return slices.ContainsFunc(s, func(scope Scope) bool {
		return (len(scope.Packs) == 0 || pack != "" && slices.Contains(scope.Packs, pack)) &&
			slices.ContainsFunc(scope.Verbs, func(mine Pattern) bool { return mine.covers(string(p)) })
	})
}

// String is the scopes as texts for persons have them: "packs.approve on weather; *.read".
func (s Scopes) String() string {
	var parts []string
	for _, scope := range s {
		verbs := make([]string, len(scope.Verbs))
		for i, p := range scope.Verbs {
			verbs[i] = string(p)
		}
		part := strings.Join(verbs, ", ")
		if len(scope.Packs) > 0 {
			part += " on " + strings.Join(scope.Packs, ", ")
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "; ")
}

// Bounds of the scopes of one token.
const (
	MaxScopes     = 32
	MaxScopeVerbs = 64
	MaxScopePacks = 256
)

// Check finds what is wrong with scopes that a caller has sent, but for the form of the packs' ids. A list that is there and empty is refused: a
// script whose list came out empty must not get a token for everything.
func (s Scopes) Check() error {
	switch {
	case s != nil && len(s) == 0:
		return fmt.Errorf("scopes is empty: leave it out for all that the role may do")
	case len(s) > MaxScopes:
		return fmt.Errorf("%d scopes are too many: at most %d", len(s), MaxScopes)
	}
	for i, scope := range s {
		if err := scope.check(); err != nil {
			return fmt.Errorf("scopes[%d]: %w", i, err)
		}
	}
	return nil
}

func (s Scope) check() error {
	switch {
	case len(s.Verbs) == 0:
		return fmt.Errorf(`verbs is missing: want at least one, such as "packs.approve"`)
	case s.Packs != nil && len(s.Packs) == 0:
		return fmt.Errorf("packs is empty: leave it out for every pack")
	case len(s.Verbs) > MaxScopeVerbs || len(s.Packs) > MaxScopePacks:
		return fmt.Errorf("too many entries: at most %d verbs and %d packs", MaxScopeVerbs, MaxScopePacks)
	}
	for _, p := range s.Verbs {
		if !p.Known() {
			return &UnknownVerbError{p}
		}
	}
	return nil
}

// UnknownVerbError is the error of Check for a verb that no endpoint needs.
type UnknownVerbError struct{ Pattern Pattern }

func (e *UnknownVerbError) Error() string {
	return fmt.Sprintf("no endpoint has the verb %q", e.Pattern)
}
