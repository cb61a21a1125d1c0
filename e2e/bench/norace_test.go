//go:build !race

package main

var buildFlags = production
