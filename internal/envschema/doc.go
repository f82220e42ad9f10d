// Package envschema says which environment variables an image takes, and checks an environment against it.
//
// A schema is YAML:
//
//	prefix: NGINX_                     # variables of this prefix must be declared here
//	variables:
//	- {name: NGINX_WORKERS, type: int, min: 1, max: 64, default: "4", description: worker processes}
//	- {name: NGINX_BACKEND, type: hostport, required: true}
//	- {name: NGINX_TOKEN, secret: true}
//	- {name: NGINX_LEVEL, type: enum, values: [info, debug], default: info}
//	- {name: NGINX_BACKENDS, type: list, of: hostport, separator: ","}
//	- {name: NGINX_UPSTREAM, deprecatedBy: NGINX_BACKEND}
//	constraints:
//	- {together: [NGINX_CERT, NGINX_KEY]}
//	- {exactlyOne: [NGINX_A, NGINX_B]}
//	- {atMostOne: [NGINX_A, NGINX_B]}
//	- {ascending: [NGINX_MIN, NGINX_MAX]}
//	- {if: NGINX_TLS, is: "true", requires: [NGINX_CERT]}
//
// Check promises to report every violation at once, each naming the variable, what is wrong and what to
// do, and never the value of a secret. Its result is what templates see: booleans, integers and lists as
// such, so that {{ if .DEBUG }} is false for "false"; all else as the text it was; "" for a variable that
// is declared, not required and not set.
//
// A variable NAME may come from a file that NAME_FILE names, as secrets of containers do; the line break
// at its end is cut off.
//
// Limits: a schema has 1 MiB and 1,000 variables at most, a value 1 MiB.
package envschema
