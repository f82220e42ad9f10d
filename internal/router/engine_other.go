//go:build !linux

package router

const defaultEngine = EnginePlain

func descriptorLimit() int { return 10_000 }

func newLoops(r *Router) (engine, error) { return newPlain(r), nil }
