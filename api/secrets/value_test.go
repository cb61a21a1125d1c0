package secrets_test

import (
	"bytes"
	stdjson "encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	api "github.com/rumi-ai/rumi/api/secrets"
)

const text = "hunter2-sk-0123456789"

// hidden holds a Value where reflection sees it and fmt calls none of its methods.
type hidden struct {
	value api.Value
	list  []api.Exposed
	named map[string]any
}

func TestValueNeverShows(t *testing.T) {
	value := api.NewValue(text)
	exposed := api.Exposed{Value: value}
	inside := hidden{value, []api.Exposed{exposed}, map[string]any{"k": value}}
	shown := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%p"} {
		for name, v := range map[string]any{
			"Value": value, "pointer": &value, "Exposed": exposed, "response": api.ValueResponse{Value: exposed},
			"input": api.NewInput(text), "unexported field": inside, "pointer to it": &inside, "error": fmt.Errorf("got %v", value),
		} {
			shown[name+" "+verb] = fmt.Sprintf(verb, v)
		}
	}
	var out bytes.Buffer
	for _, h := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
		slog.New(h).Info("x", "value", value, "exposed", exposed, "input", api.NewInput(text), "inside", inside, "answer", struct{ Nested api.ValueResponse }{api.ValueResponse{Value: exposed}}, "group", slog.GroupValue(slog.Any("v", value)))
	}
	shown["slog"] = out.String()
	for _, v := range []any{value, &value, []api.Value{value}, map[string]any{"v": value}, struct{ V api.Value }{value}} {
		if data, err := stdjson.Marshal(v); err == nil {
			t.Errorf("encoding/json marshals %T as %s, want an error", v, data)
		}
		if data, err := json.Marshal(v); err == nil {
			t.Errorf("json marshals %T as %s, want an error", v, data)
		}
	}
	for how, s := range shown {
		for _, form := range []string{text, fmt.Sprintf("%x", text), fmt.Sprintf("%X", text), strings.Trim(fmt.Sprintf("%d", []byte(text)), "[]")} {
			if strings.Contains(s, form) {
				t.Errorf("%s shows the value: %s; want it hidden", how, s)
			}
		}
	}
	if value.Reveal() != text {
		t.Fatal("Reveal lost the value")
	}
	if (api.Value{}).Reveal() != "" {
		t.Fatal("the zero Value is not empty")
	}
}

func TestExposedSurvivesTheWire(t *testing.T) {
	for _, want := range []string{"", text, "line\nbreak", "\x00", "日本語", `"quotes" and \`} {
		data, err := json.Marshal(api.ValueResponse{Value: api.Exposed{Value: api.NewValue(want)}})
		if err != nil {
			t.Fatal(err)
		}
		var got api.ValueResponse
		if err := json.Unmarshal(data, &got); err != nil || got.Value.Reveal() != want {
			t.Errorf("%[2]q, %[3]v came back, want %[1]q", want, got.Value.Reveal(), err)
		}
	}
	var got api.ValueResponse
	if err := json.Unmarshal([]byte(`{"value":["hunter2"]}`), &got); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a wrong type gave %v, want an error without the value", err)
	}
}
