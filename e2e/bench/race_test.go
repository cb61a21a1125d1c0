//go:build race

package main

// buildFlags share what the tests of the services have had compiled.
var buildFlags = []string{"-race"}
