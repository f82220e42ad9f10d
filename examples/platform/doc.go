// Package platform is the demo platform: a small but real shop system that runs inside of a
// ShopSet. Its programs are below cmd, what they are made of below internal, and buyer buys there
// as a person does. This package holds the tests of all of it together.
package platform
