package main

import (
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/policy"
)

// Under a policy without sdists no approval allows them, and nothing is built. What was installed before stays, and is shown.
func TestSdistsOverThePolicyAreRefused(t *testing.T) {
	w := prepared(t, nil)
	w.approve("weather")
	item := func() map[string]any {
		return w.call("GET", "/api/pip/requests", "").Data["items"].([]any)[0].(map[string]any)
	}
	w.SetPolicy(`{"version": 1, "pip": {"sdists": false}}`)
	time.Sleep(3 * policy.Refresh)
	refused := w.call("POST", request(key, "approve"), `{"allow_sdist": true}`)
	w.expect(refused, 403, "Not allowed by the policy (user_data/settings/policy.json): pip.sdists: distributions that have to be built (allow_sdist) may not be installed")
	if len(w.builder.asked()) != 0 || item()["status"] != "pending" {
		t.Errorf("after the refusal: %d builds and %v, want none, and the lock still pending", len(w.builder.asked()), item())
	}
	if got := w.audited("security"); len(got) < 1 || !strings.HasPrefix(got[len(got)-1], "policy_refused weather Not allowed by the policy") {
		t.Errorf("the audit log has %q, want policy_refused of weather at last", got)
	}
	w.SetPolicy(`{"version": 1}`)
	time.Sleep(3 * policy.Refresh)
	w.expect(w.call("POST", request(key, "approve"), `{"allow_sdist": true}`), 200, "")
	if got := item()["over_policy"]; got != nil {
		t.Errorf("without a ceiling: over_policy is %v, want null", got)
	}
	w.SetPolicy(`{"version": 1, "pip": {"sdists": false}}`)
	time.Sleep(3 * policy.Refresh)
	if over, _ := item()["over_policy"].(map[string]any); item()["status"] != "installed" || over["rule"] != policy.Sdists {
		t.Errorf("what is installed: got %v, want it installed still, over %s", item(), policy.Sdists)
	}
	if _, err := w.client().Environment(t.Context(), "weather"); err != nil {
		t.Errorf("its environment: %v, want it served", err)
	}
}
