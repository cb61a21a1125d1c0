//go:build race

package main

// buildFlags build the services with the race detector. The build cache has most of it from the services' own tests.
var buildFlags = []string{"-race"}
