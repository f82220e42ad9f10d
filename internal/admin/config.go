package admin

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxConfigBytes bounds a configuration file; a larger one is a mistake.
const maxConfigBytes = 1 << 20

// ReadConfig reads the YAML file at path into config, a pointer to a struct. Unknown fields, a
// second document and wrong types are errors, all of them at once and each with its line.
func ReadConfig(path string, config any) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxConfigBytes+1))
	if err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	if len(content) > maxConfigBytes {
		return fmt.Errorf("configuration %s: larger than %d bytes", path, maxConfigBytes)
	}
	return ParseConfig(path, content, config)
}

// ParseConfig is ReadConfig for content that is already in memory; name stands for the file in
// errors. When config is a Validator, its problems are reported together with the others.
func ParseConfig(name string, content []byte, config any) error {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	var findings []finding
	if err := decoder.Decode(config); err != nil {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("configuration %s: empty", name)
		}
		var typeError *yaml.TypeError
		if !errors.As(err, &typeError) {
			return fmt.Errorf("configuration %s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
		}
		for _, message := range typeError.Errors {
			findings = append(findings, typeFinding(message))
		}
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("configuration %s: more than one YAML document", name)
	}
	var root yaml.Node
	if err := yaml.Unmarshal(content, &root); err != nil {
		return fmt.Errorf("configuration %s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	findings = append(findings, validate(&root, config, findings)...)

	problems := make([]error, 0, len(findings))
	for _, f := range sorted(findings) {
		problems = append(problems, fmt.Errorf("configuration %s: %s", name, f))
	}
	return errors.Join(problems...)
}
