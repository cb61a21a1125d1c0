package main

import "testing"

func TestHomeAliasIsTheMountsSource(t *testing.T) {
	mount := func(root string) string {
		return "30 20 8:1 / / rw - ext4 /dev/a rw\n31 30 8:1 " + root + " /rumi/ecosystem rw - ext4 /dev/a rw\n"
	}
	for _, c := range []struct{ name, path, mountinfo, want string }{
		{"the project's folder", "/srv/rumi", mount("/srv/rumi/ecosystem"), "/srv/rumi"},
		{"on a file system of its own", "/srv/rumi", mount("/rumi/ecosystem"), "/srv/rumi"},
		{"with a space", "/srv/my rumi", mount(`/srv/my\040rumi/ecosystem`), "/srv/my rumi"},
		{"a shell elsewhere", "/srv/rumi/docs", mount("/srv/rumi/ecosystem"), ""},
		{"another clone", "/srv/rumi2", mount("/srv/rumi/ecosystem"), ""},
		{"a relative RUMI_HOME", "./data", mount("/srv/rumi/data/ecosystem"), ""},
		{"a source that tells nothing", "/srv/rumi", mount("/"), ""},
		{"no mount: on the host", "/srv/rumi", "30 20 8:1 / / rw - ext4 /dev/a rw\n", "/srv/rumi"},
	} {
		if got := homeAlias(c.path, "/rumi/ecosystem", c.mountinfo); got != c.want {
			t.Errorf("%s: homeAlias(%q) = %q, want %q", c.name, c.path, got, c.want)
		}
	}
}
