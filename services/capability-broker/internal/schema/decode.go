package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// decode reads a value as the validator wants it, numbers as they are written, and says how many values and names are in
// it. Errors tell nothing of the value.
func decode(raw jsontext.Value, maxDepth int) (value any, n int, err error) {
	d := jsontext.NewDecoder(bytes.NewBuffer(raw))
	value, err = next(d, maxDepth, &n)
	return value, n, err
}

var errJSON = errors.New("it is not JSON")

func next(d *jsontext.Decoder, maxDepth int, n *int) (any, error) {
	if *n++; *n > maxValues {
		return nil, errors.New("there are too many values in it")
	}
	token, err := d.ReadToken()
	if err != nil {
		return nil, errJSON
	}
	if d.StackDepth() > maxDepth {
		return nil, errors.New("it is nested too deeply")
	}
	switch token.Kind() {
	case '{':
		object := make(map[string]any)
		for d.PeekKind() != '}' {
			*n++
			name, err := d.ReadToken()
			if err != nil {
				return nil, errJSON
			}
			key := name.String()
			if object[key], err = next(d, maxDepth, n); err != nil {
				return nil, err
			}
		}
		_, err = d.ReadToken()
		return object, err
	case '[':
		list := []any{}
		for d.PeekKind() != ']' {
			item, err := next(d, maxDepth, n)
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		_, err = d.ReadToken()
		return list, err
	case '"':
		return token.String(), nil
	case '0':
		return number(token.String())
	case 't', 'f':
		return token.Bool(), nil
	}
	return nil, nil
}

// number keeps a number as it is written, if exact arithmetic can be done with it in no time and it is the same number, nearly, to
// handlers. Python reads a float64 where a number has a fraction or an exponent: a number that is too large would be infinite there, one that is
// too small zero, and a bound that was checked here would not hold.
func number(s string) (any, error) {
	mantissa, exponent, written := s, 0, strings.ContainsAny(s, ".eE")
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		var err error
		if exponent, err = strconv.Atoi(s[i+1:]); err != nil {
			exponent = maxExponent + 1
		}
		mantissa = s[:i]
	}
	far := len(s) > maxNumber || exponent > maxExponent || exponent < -maxExponent
	if !far && written {
		f, err := strconv.ParseFloat(s, 64)
		far = err != nil || f == 0 && strings.ContainsAny(mantissa, "123456789")
	}
	if far {
		return nil, errors.New("a number in it is too long or too far from 1")
	}
	return json.Number(s), nil
}
