// Package render prints objects of the API for people (table, wide) and for programs (json, yaml). It knows the shape of
// messages and nothing of commands or servers. What programs read is the API message itself with the field names of the
// proto files; tables may change from release to release.
package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

// Format is how objects are printed.
type Format string

// The formats.
const (
	Table Format = "table"
	Wide  Format = "wide"
	JSON  Format = "json"
	YAML  Format = "yaml"
)

// Formats returns all formats by name.
func Formats() []string { return []string{string(Table), string(Wide), string(JSON), string(YAML)} }

// Parse returns the format of that name.
func Parse(s string) (Format, error) {
	for _, f := range Formats() {
		if f == s {
			return Format(f), nil
		}
	}
	return "", fmt.Errorf("output format %q is not one of %s", s, strings.Join(Formats(), ", "))
}

// Printer prints objects to W.
type Printer struct {
	W      io.Writer
	Format Format
	// Boxes draws lines around the cells of tables, for a terminal; without, columns are separated by blanks.
	Boxes bool
}

// Column is one column of a list.
type Column struct {
	// Head is the title; Path leads to the field that is shown, e.g. "status.state" or "fixed_ips.ip_address"; of a
	// repeated field all elements are shown.
	Head, Path string
	// Wide columns are shown in that format only.
	Wide bool
}

// List prints objects as rows of a table, or as an array.
func (p Printer) List(objs []proto.Message, columns []Column) error {
	switch p.Format {
	case JSON, YAML:
		return p.array(objs)
	case Table, Wide:
	}
	var shown []Column
	head := table.Row{}
	for _, c := range columns {
		if !c.Wide || p.Format == Wide {
			shown = append(shown, c)
			head = append(head, c.Head)
		}
	}
	rows := make([]table.Row, len(objs))
	for i, m := range objs {
		for _, c := range shown {
			rows[i] = append(rows[i], strings.Join(values(m.ProtoReflect(), c.Path), ", "))
		}
	}
	return p.table(head, rows)
}

// Object prints one object as a table of its fields, or as an object.
func (p Printer) Object(m proto.Message) error {
	switch p.Format {
	case JSON, YAML:
		raw, err := Marshal(m)
		if err != nil {
			return err
		}
		return p.structured(raw)
	case Table, Wide:
	}
	var rows []table.Row
	for _, f := range fields(m.ProtoReflect(), p.Format == Wide) {
		rows = append(rows, table.Row{f.name, f.value})
	}
	return p.table(table.Row{"FIELD", "VALUE"}, rows)
}

// Marshal is the JSON of one object: field names of the proto files, every field that has a default there too.
func Marshal(m proto.Message) (json.RawMessage, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("writing %s as JSON: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	// protojson varies its white space on purpose; output that is compared must not.
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return nil, fmt.Errorf("writing %s as JSON: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return b.Bytes(), nil
}

func (p Printer) array(objs []proto.Message) error {
	var b bytes.Buffer
	b.WriteByte('[')
	for i, m := range objs {
		raw, err := Marshal(m)
		if err != nil {
			return err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(raw)
	}
	b.WriteByte(']')
	return p.structured(b.Bytes())
}

func (p Printer) structured(raw []byte) error {
	if p.Format == YAML {
		out, err := yaml.JSONToYAML(raw)
		if err != nil {
			return fmt.Errorf("writing YAML: %w", err)
		}
		return p.write(out)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	b.WriteByte('\n')
	return p.write(b.Bytes())
}

func (p Printer) table(head table.Row, rows []table.Row) error {
	t := table.NewWriter()
	style := table.StyleLight
	if !p.Boxes {
		style = table.StyleDefault
		style.Options = table.OptionsNoBordersAndSeparators
		style.Box.PaddingLeft = ""
		style.Box.PaddingRight = "  "
	}
	t.SetStyle(style)
	t.AppendHeader(head)
	t.AppendRows(rows)
	var b strings.Builder
	for line := range strings.Lines(t.Render() + "\n") {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return p.write([]byte(b.String()))
}

func (p Printer) write(out []byte) error {
	if _, err := p.W.Write(out); err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	return nil
}

// Raw prints JSON that is no object of the API, as JSON or YAML.
func (p Printer) Raw(raw json.RawMessage) error { return p.structured(raw) }
