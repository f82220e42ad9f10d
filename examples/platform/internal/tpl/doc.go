// Package tpl is the template system of the demo shop, of the kind that shop systems had around
// 2010: themes are source files that are compiled on first use, and the compiled form is kept in a
// file.
//
// The language:
//
//	{$product.name}                   a value, escaped for HTML text and quoted attributes
//	{#color#}                         a constant of the theme, known when compiling
//	{if $x} … {else} … {/if}          also {if !$x} and {if #constant#}
//	{foreach $items as $item} … {/foreach}
//	{include "header.tpl"}            the file's content, in place
//	{* a comment *}
//
// A brace before white space is only a brace. A value is never parsed: braces in it mean nothing.
// Only a value of type HTML, which only the program can make, is not escaped.
//
// Compile parses, puts included files in place, folds constants, removes branches that cannot be
// taken, collapses white space and joins neighbouring text. Program.Encode makes bytes that Decode
// reads: a tree in which every node says its own length, without a path, a pointer or an offset, so
// that the bytes mean the same in any folder of any Pod. The kind of the format is in FormatVersion.
// Style compiles style sheets: variables, nesting, colour functions, minification.
//
// Limits: nested at most maxDepth deep; white space is collapsed everywhere, so <pre> is not for
// these templates; a value that does not exist is an error, except in {if}.
package tpl

// FormatVersion changes when the compiler or the format of compiled templates does; it belongs in
// the key of a stored one.
const FormatVersion = "1"
