package main

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
)

// store grants every store.* with a config, and returns a function that calls one of them over a socket.
func (w *world) store(packID string, config any) func(op string, args any) map[string]any {
	w.t.Helper()
	for _, op := range []string{"get", "set", "delete", "list", "batch_get", "cas"} {
		w.must("POST", "/api/capability/grants/grant", map[string]any{"principal_id": packID, "permission_id": "store." + op, "config": config})
	}
	conn := w.dial(packID)
	return func(op string, args any) map[string]any {
		w.t.Helper()
		return conn.ask(map[string]any{"permission_id": "store." + op, "args": args})
	}
}

func parsed(t testing.TB, text string) (value map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return value
}

func TestStores(t *testing.T) {
	w := newWorld(t).start()
	for _, id := range []string{"p", "q"} {
		w.write(id, handlerPack(nil))
		w.approve(id)
	}
	w.store("p", map[string]any{"allowed_store_ids": []string{"notes", "more"}, "max_value_bytes": 64})
	p, q := w.store("p", map[string]any{"allowed_store_ids": []string{"notes"}, "max_value_bytes": 64}), w.store("q", nil)

	const denied, invalid = "grant_denied", "validation_error"
	long := strings.Repeat("k", 513)
	for i, c := range []struct{ op, args, want string }{ // in this order
		{"get", `{"store_id":"notes","key":"a"}`, `{"success":false,"error":"Key not found","error_type":"key_not_found"}`},
		{"set", `{"store_id":"notes","key":"a","value":{"x":[1,null,"é"]}}`, `{"success":true,"store_id":"notes","key":"a","created":true}`},
		{"set", `{"store_id":"notes","key":"a","value":null}`, `{"success":true,"store_id":"notes","key":"a","created":false}`},
		{"get", `{"store_id":"notes","key":"a"}`, `{"success":true,"value":null}`},
		{"cas", `{"store_id":"notes","key":"b","new_value":1}`, `{"success":true,"store_id":"notes","key":"b"}`},
		{"cas", `{"store_id":"notes","key":"b","expected_value":2,"new_value":3}`,
			`{"success":false,"error":"The value is another than expected_value","error_type":"conflict","current_value":1}`},
		{"cas", `{"store_id":"notes","key":"c","expected_value":2,"new_value":3}`,
			`{"success":false,"error":"The value is another than expected_value","error_type":"conflict","current_value":null}`},
		{"cas", `{"store_id":"notes","key":"b","expected_value":1.0,"new_value":"two"}`, `{"success":true,"store_id":"notes","key":"b"}`},
		{"batch_get", `{"store_id":"notes","keys":["a","b","none","b"]}`,
			`{"success":true,"results":{"a":null,"b":"two","none":null},"found":2,"not_found":1,"truncated":false}`},
		{"list", `{"store_id":"notes","limit":1}`, `{"success":true,"keys":["a"],"next_cursor":"YQ","has_more":true,"total_estimate":2}`},
		{"list", `{"store_id":"notes","limit":1,"cursor":"YQ"}`, `{"success":true,"keys":["b"],"next_cursor":null,"has_more":false,"total_estimate":2}`},
		{"list", `{"store_id":"notes","prefix":"b","limit":5000}`, `{"success":true,"keys":["b"],"next_cursor":null,"has_more":false,"total_estimate":1}`},
		{"list", `{"store_id":"notes","prefix":"none/"}`, `{"success":true,"keys":[],"next_cursor":null,"has_more":false,"total_estimate":0}`},
		{"delete", `{"store_id":"notes","key":"b"}`, `{"success":true,"store_id":"notes","key":"b","deleted":true}`},
		{"delete", `{"store_id":"notes","key":"b"}`, `{"success":true,"store_id":"notes","key":"b","deleted":false}`},
		{"set", `{"store_id":"notes","key":"a","value":"` + strings.Repeat("x", 62) + `"}`, `{"success":true,"store_id":"notes","key":"a","created":false}`},
		{"set", `{"store_id":"notes","key":"a","value":"` + strings.Repeat("x", 63) + `"}`,
			`{"success":false,"error":"Value too large (max 64 bytes)","error_type":"payload_too_large"}`},
		{"cas", `{"store_id":"notes","key":"z","new_value":"` + strings.Repeat("x", 63) + `"}`,
			`{"success":false,"error":"Value too large (max 64 bytes)","error_type":"payload_too_large"}`},

		{"get", `{"store_id":"more","key":"a"}`, denied}, {"set", `{"store_id":"Notes","key":"a","value":1}`, denied},
		{"list", `{"store_id":"more"}`, denied}, {"batch_get", `{"store_id":"more","keys":["a"]}`, denied},
		{"cas", `{"store_id":"more","key":"a","new_value":1}`, denied}, {"delete", `{"store_id":"more","key":"a"}`, denied},

		{"get", `{"key":"a"}`, invalid}, {"get", `{"store_id":7,"key":"a"}`, invalid}, {"get", `{"store_id":"no tes","key":"a"}`, invalid},
		{"get", `{"store_id":"notes\n","key":"a"}`, invalid}, {"get", `{"store_id":"notes"}`, invalid}, {"get", `{"store_id":"notes","key":["a"]}`, invalid},
		{"get", `{"store_id":"notes","key":"a\n"}`, invalid}, {"get", `{"store_id":"notes","key":"../a"}`, invalid},
		{"get", `{"store_id":"notes","key":"/a"}`, invalid}, {"get", `{"store_id":"notes","key":"a/"}`, invalid},
		{"get", `{"store_id":"notes","key":"a b"}`, invalid}, {"get", `{"store_id":"notes","key":"` + long + `"}`, invalid},
		{"set", `{"store_id":"notes","key":"a"}`, invalid}, {"cas", `{"store_id":"notes","key":"a","expected_value":1}`, invalid},
		{"list", `{"store_id":"notes","limit":0}`, invalid}, {"list", `{"store_id":"notes","limit":1.5}`, invalid},
		{"list", `{"store_id":"notes","cursor":"!"}`, invalid}, {"list", `{"store_id":"notes","prefix":"é"}`, invalid},
		{"batch_get", `{"store_id":"notes"}`, invalid}, {"batch_get", `{"store_id":"notes","keys":[]}`, invalid},
		{"batch_get", `{"store_id":"notes","keys":["a","b c"]}`, invalid}, {"batch_get", `{"store_id":"notes","keys":"a"}`, invalid},
		{"batch_get", `{"store_id":"notes","keys":["a"` + strings.Repeat(`,"a"`, 100) + `]}`, invalid},
	} {
		got := p(c.op, parsed(t, c.args))
		if kind := c.want; kind == denied || kind == invalid {
			if got["error_type"] != kind || got["success"] != false || kind == denied && got["error"] != "Permission denied" {
				t.Errorf("%d: %s %s: want %s: %v", i, c.op, c.args, kind, got)
			}
		} else if got["success"] != true || !reflect.DeepEqual(got["output"], any(parsed(t, c.want))) {
			t.Errorf("%d: %s %s: want %s: %v", i, c.op, c.args, c.want, got)
		}
	}
	if got := q("get", map[string]any{"store_id": "notes", "key": "a"}); got["error_type"] != denied {
		t.Errorf("a grant that names no store: %v; want %v", got, denied)
	}
	// Another pack that is granted the store sees the same values.
	q = w.store("q", map[string]any{"allowed_store_ids": []string{"notes"}})
	if got := q("get", map[string]any{"store_id": "notes", "key": "a"})["output"].(map[string]any); got["value"] != strings.Repeat("x", 62) {
		t.Errorf("the other pack reads %v", got)
	}
	for _, config := range []string{`{"allowed_store_ids":"notes"}`, `{"allowed_store_ids":["no tes"]}`, `{"allowed_stores":["a"]}`,
		`{"max_value_bytes":0}`, `{"max_value_bytes":1048577}`, `{"max_value_bytes":"1"}`} {
		a := w.api("POST", "/api/capability/grants/grant", map[string]any{"principal_id": "p", "permission_id": "store.get", "config": parsed(t, config)})
		if a.code != 400 || !strings.HasPrefix(a.error, "Invalid config for store.get: ") {
			t.Errorf("the config %s got %d %s, want 400 Invalid config", config, a.code, a.error)
		}
	}
	entries := w.audited("permission", "permission_execute")
	if details := entries[1]["details"].(map[string]any); details["store_id"] != "notes" || details["bytes"] != 19.0 || entries[1]["success"] != true {
		t.Errorf("the entry of the set is %v, want success with the store and 19 bytes", entries[1])
	}
	if details := entries[0]["details"].(map[string]any); details["result"] != "key_not_found" {
		t.Errorf("the entry of the get is %v, want key_not_found", entries[0])
	}
	for name, raw := range readFiles(t, filepath.Join(w.UserData(), "audit")) {
		if strings.Contains(string(raw), "xxxx") || strings.Contains(string(raw), "kkkk") {
			t.Errorf("%s has an argument", name)
		}
	}
}

// What may be written can be read, alone and in a batch, and a pack can't fill the disk.
func TestLargeValues(t *testing.T) {
	w := newWorld(t)
	w.env["RUMI_STORE_MAX_BYTES"] = "3000000"
	w.start()
	w.write("p", handlerPack(nil))
	w.approve("p")
	p := w.store("p", map[string]any{"allowed_store_ids": []string{"s"}})
	value := strings.Repeat("x", 1<<20-1<<10-2)
	set := func(key, value string) map[string]any {
		t.Helper()
		got := p("set", map[string]any{"store_id": "s", "key": key, "value": value})
		if got["success"] != true {
			t.Fatalf("set of %s: got %v, want success", key, got)
		}
		return got["output"].(map[string]any)
	}
	if got := set("a", value+"x"); got["error_type"] != "payload_too_large" {
		t.Errorf("a byte too much: got %v, want payload_too_large", got)
	}
	for _, key := range []string{"a", "b"} {
		if got := set(key, value); got["success"] != true {
			t.Fatalf("the largest value can't be written: %v", got)
		}
		if got := p("get", map[string]any{"store_id": "s", "key": key}); got["success"] != true || got["output"].(map[string]any)["value"] != value {
			t.Errorf("the largest value can't be read: %v %v", got["error"], got["error_type"])
		}
	}
	got := p("cas", map[string]any{"store_id": "s", "key": "a", "expected_value": 1, "new_value": 1})
	if got["success"] != true || got["output"].(map[string]any)["current_value"] != value {
		t.Errorf("the largest value can't be told in a conflict: %v %v", got["error"], got["error_type"])
	}
	if got := set("c", value); got["error_type"] != "quota_exceeded" || got["error"] != "The store is full" {
		t.Errorf("a full store: got %v, want quota_exceeded", got)
	}
	set("c", value[:450<<10])
	set("b", value[:450<<10])
	got = p("batch_get", map[string]any{"store_id": "s", "keys": []string{"a", "b", "c", "d"}})
	output, _ := got["output"].(map[string]any)
	if got["success"] != true || output["truncated"] != true || !reflect.DeepEqual(output["remaining"], []any{"a", "c"}) ||
		output["found"] != 1.0 || output["not_found"] != 1.0 || len(output["results"].(map[string]any)) != 2 {
		delete(output, "results")
		t.Errorf("the batch got %v, want one found, one not, and two that remain", got)
	}
}

const storeProgram = `
import json, time, rumi_capability
def ask(op, **args):
    result = rumi_capability.call("store." + op, dict(args, store_id="shared"))
    print(op, json.dumps(result["output"] or result["error_type"], sort_keys=True))
ask("set", key="greeting", value={"hello": ["world", 12345678901234567890]})
ask("get", key="greeting")
ask("cas", key="greeting", expected_value={"hello": ["world", 12345678901234567890]}, new_value="changed")
ask("batch_get", keys=["greeting", "none"])
ask("list", prefix="greet")
ask("delete", key="greeting")
ask("get", key="greeting")
print("other", rumi_capability.call("store.get", {"store_id": "other", "key": "a"})["error"])
print("done")
time.sleep(3600)
`

func TestStoreFromAPacksContainer(t *testing.T) {
	w := newWorld(t).start()
	files := packFiles()
	files["backend/main.py"] = storeProgram
	w.write("p", files)
	w.approve("p")
	w.store("p", map[string]any{"allowed_store_ids": []string{"shared"}})
	w.must("POST", "/api/containers/p/start", nil)
	var log string
	w.eventually("output", func() bool { log = w.logs("p"); return strings.Contains(log, "done") })
	for _, want := range []string{
		`set {"created": true, "key": "greeting", "store_id": "shared", "success": true}`,
		`get {"success": true, "value": {"hello": ["world", 12345678901234567890]}}`,
		`cas {"key": "greeting", "store_id": "shared", "success": true}`,
		`batch_get {"found": 1, "not_found": 1, "results": {"greeting": "changed", "none": null}, "success": true, "truncated": false}`,
		`list {"has_more": false, "keys": ["greeting"], "next_cursor": null, "success": true, "total_estimate": 1}`,
		`delete {"deleted": true, "key": "greeting", "store_id": "shared", "success": true}`,
		`get {"error": "Key not found", "error_type": "key_not_found", "success": false}`,
		`other Permission denied`,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("no %s in\n%s", want, log)
		}
	}
}
