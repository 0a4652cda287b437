// Reads what is deployed with the code of those who deploy it, where no engine runs: a compose file with the library of
// `docker compose`, a Dockerfile with the parser and the linter of BuildKit, a .dockerignore with the matcher of both.
//
// Arguments: the directory that they are in. Standard input: the paths that there are, a line each. What was read is printed
// as JSON, for deploy/check; what cannot be read fails.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

type stage struct {
	Name     string   `json:"name"`
	Base     string   `json:"base"`
	Commands []string `json:"commands"`
}

type deployment struct {
	Project *types.Project `json:"project"`
	Stages  []stage        `json:"stages"`
	// What the linter has to say.
	Warnings []string `json:"warnings"`
	// Of the paths that there are those that a build is given.
	Context []string `json:"context"`
}

func main() {
	directory := os.Args[1]
	read := deployment{Project: compose(directory), Warnings: []string{}, Context: given(directory)}
	read.Stages = dockerfile(directory, &read.Warnings)
	must(json.NewEncoder(os.Stdout).Encode(read))
}

// compose is what `docker compose config` does: the schema, interpolation, and whether all names that are used are there.
func compose(directory string) *types.Project {
	path := filepath.Join(directory, "docker-compose.yml")
	content, err := os.ReadFile(path)
	must(err)
	details := types.ConfigDetails{
		WorkingDir:  directory,
		ConfigFiles: []types.ConfigFile{{Filename: path, Content: content}},
		Environment: types.Mapping{},
	}
	project, err := loader.LoadWithContext(context.Background(), details, func(options *loader.Options) {
		options.SetProjectName("ottla", true)
	})
	must(err)
	return project
}

func dockerfile(directory string, warnings *[]string) []stage {
	file, err := os.Open(filepath.Join(directory, "Dockerfile"))
	must(err)
	defer file.Close()
	parsed, err := parser.Parse(file)
	must(err)
	for _, warning := range parsed.Warnings {
		*warnings = append(*warnings, warning.Short)
	}
	lint := linter.New(&linter.Config{
		Warn: func(rule, _, _, message string, location []parser.Range) {
			*warnings = append(*warnings, fmt.Sprintf("%s: %s %v", rule, message, location))
		},
	})
	// Stages, and arguments before the first of them, which are not used here.
	found, _, err := instructions.Parse(parsed.AST, lint)
	must(err)
	var stages []stage
	for _, each := range found {
		commands := []string{}
		for _, command := range each.Commands {
			commands = append(commands, fmt.Sprint(command))
		}
		stages = append(stages, stage{Name: each.Name, Base: each.BaseName, Commands: commands})
	}
	return stages
}

func given(directory string) []string {
	file, err := os.Open(filepath.Join(directory, ".dockerignore"))
	must(err)
	defer file.Close()
	patterns, err := ignorefile.ReadAll(file)
	must(err)
	matcher, err := patternmatcher.New(patterns)
	must(err)
	paths := []string{}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		path := strings.TrimSpace(lines.Text())
		ignored, err := matcher.MatchesOrParentMatches(path)
		must(err)
		if !ignored {
			paths = append(paths, path)
		}
	}
	return paths
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
