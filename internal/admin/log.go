package admin

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
)

// SetupLog makes JSON lines on w the default log of the program. level is debug, info, warn or
// error; anything else is an error that says so.
func SetupLog(w io.Writer, program, level string) error {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return fmt.Errorf("log level %q: want debug, info, warn or error", level)
	}
	slog.SetDefault(slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l})).With("program", program))
	return nil
}

// Main runs a program's main function with the log set up from the environment (LOG_LEVEL, info by
// default) and turns its error into one line and exit code 1.
func Main(program string, run func() error) {
	level := os.Getenv("LOG_LEVEL")
	if level == "" {
		level = "info"
	}
	err := SetupLog(os.Stdout, program, level)
	if err == nil {
		err = run()
	}
	if errors.Is(err, flag.ErrHelp) {
		return // who asked for help has it
	}
	if err != nil {
		// The kubelet shows the end of the log as the reason of a crash, so the last line is the
		// sentence itself.
		fmt.Fprintf(os.Stderr, "%s: %v\n", program, err)
		os.Exit(1)
	}
}
