package review

import (
	"cmp"
	"maps"
	"path"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/text"
	"github.com/rumi-ai/rumi/libs/tree"
)

// maxValue is how many bytes of a descriptor's value are shown.
const maxValue = 16 << 10

// descriptorFields reads the members of the descriptor in a tree, and its path. There are none if it is no JSON object; the
// pack's state says that.
func descriptorFields(m tree.Manifest, open Open) (fields map[string]jsontext.Value, at string, err error) {
	for _, base := range []string{"", "backend"} {
		name := path.Join(base, pack.File)
		i := slices.IndexFunc(m.Entries, func(e tree.Entry) bool { return e.Path == name && e.Kind == tree.File })
		if i < 0 {
			continue
		}
		if m.Entries[i].Size > pack.MaxDescriptor {
			return nil, name, nil
		}
		data, err := read(m.Entries[i], open)
		if err != nil {
			return nil, "", err
		}
		fields = map[string]jsontext.Value{}
		var members map[string]jsontext.Value
		if json.Unmarshal(data, &members) != nil {
			return nil, name, nil
		}
		for member, value := range members {
			flatten(fields, member, value)
		}
		return fields, name, nil
	}
	return nil, "", nil
}

// flatten adds a member, or those of an object that it is.
func flatten(fields map[string]jsontext.Value, name string, value jsontext.Value) {
	var members map[string]jsontext.Value
	if value.Kind() == '{' && json.Unmarshal(value, &members) == nil && len(members) > 0 {
		for member, one := range members {
			canonical(fields, name+"."+member, one)
		}
		return
	}
	canonical(fields, name, value)
}

// canonical adds a value in its canonical form, so that white space and the order of members don't count as changes.
func canonical(fields map[string]jsontext.Value, name string, value jsontext.Value) {
	value = value.Clone()
	if value.Canonicalize() == nil {
		fields[name] = value
	}
}

// describeChanges compares two descriptors.
func describeChanges(now, before map[string]jsontext.Value, at, was string) []Field {
	changes := []Field{}
	if at != was && was != "" {
		after, _ := json.Marshal(at)
		old, _ := json.Marshal(was)
		changes = append(changes, Field{Name: "(its file)", Before: old, After: after})
	}
	names := map[string]bool{}
	for name := range now {
		names[name] = true
	}
	for name := range before {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if string(now[name]) != string(before[name]) {
			changes = append(changes, Field{Name: name, Before: shownValue(before[name]), After: shownValue(now[name])})
		}
	}
	slices.SortStableFunc(changes, func(a, b Field) int { return cmp.Compare(rank(a.Name), rank(b.Name)) })
	return changes
}

// rank orders fields: those that decide what runs come first.
func rank(field string) int {
	if i := slices.Index([]string{"entrypoint", "pack_identity", "pack_id"}, field); i >= 0 {
		return i
	}
	return 3
}

// shownValue is a value as it is shown: one that is too long as the text of its beginning.
func shownValue(value jsontext.Value) jsontext.Value {
	switch {
	case value == nil:
		return null
	case len(value) > maxValue:
		short, _ := jsontext.AppendQuote(nil, text.Clip(string(value), maxValue))
		return short
	}
	return value
}

// stringOf is a value that is a string; "" for any other.
func stringOf(value jsontext.Value) (s string) {
	if json.Unmarshal(value, &s) != nil {
		return ""
	}
	return s
}
