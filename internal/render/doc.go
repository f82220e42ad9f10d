// Package render turns a config template and an environment into a file.
//
// It promises that the same template and environment give the same bytes everywhere: in the
// operator, in tests and in the container. It is strict: a variable that is not set is an error
// that names the template, the line and the variable, never an empty string. It has no access to
// anything but the environment that it is given: no files, no clock, no network, no random numbers.
//
// Two languages:
//
//	Go         text/template. {{ .NAME }} is the variable NAME; most functions of sprig, and
//	           optional "NAME"     the variable, or "" when it is not set
//	           required "TEXT" V   V, or the error TEXT when V is empty; of one that is not set at all, the
//	                               error is that, as everywhere
//	           include "PARTIAL" . another template as a text, for pipelines
//	Envsubst   ${NAME}, ${NAME:-default}, ${NAME:?message}, ${NAME:+instead}, and each without the
//	           colon, which then only asks whether NAME is set, not whether it is empty (POSIX 2.6.2).
//	           Defaults may hold ${…} again. $${ is a literal ${, and a $ without a brace is a $:
//	           nginx and shells have their own.
//
// Algorithm: parse; count the nodes of every loop round and template call, and bytes at every function
// that makes a value; execute into a bounded buffer. Text executes once. File executes again with an
// empty value for each variable found missing, so that all are told at once.
//
// Limits: a file has MaxBytes at most, and rendering takes MaxSteps steps and makes values of MaxBytes
// on the way at most, so that no template can keep the operator busy or fill its memory. A Budget lets
// several renderings share the limit.
package render
