// Package tester will test how a container image behaves, against mocks, with very little code. It is
// a module of its own, so that people who only test images get none of ShopSet's dependencies.
//
// There is nothing here yet.
package tester
