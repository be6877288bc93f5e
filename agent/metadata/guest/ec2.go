package guest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// ec2Versions are the versions of EC2's layout, the last of which is the newest.
func ec2Versions() []string {
	return []string{
		"1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01", "2009-04-04", "latest",
	}
}

// ec2 are the documents below a version. Those of machine images, which weft knows nothing of, are not there.
func (g *Guest) ec2() leaves {
	out := leaves{}
	put := func(path, value string) { out["meta-data/"+path] = Document{Body: []byte(value), Type: text} }
	put("instance-id", g.Instance)
	put("hostname", g.FQDN())
	put("local-hostname", g.FQDN())
	put("mac", g.MAC)
	if len(g.Addresses) > 0 {
		put("local-ipv4", g.Addresses[0].Prefix.Addr().String())
	}
	var index []string
	for i, key := range g.named() {
		index = append(index, fmt.Sprintf("%d=%s", i, key.name))
		put("public-keys/"+strconv.Itoa(i)+"/openssh-key", key.text)
	}
	if len(index) > 0 {
		put("public-keys", strings.Join(index, "\n"))
	}
	if len(g.UserData) > 0 {
		out["user-data"] = Document{Body: g.UserData, Type: binary}
	}
	return out
}

// below names what a folder holds, sorted, folders with a slash at the end.
func (l leaves) below(folder string) []string {
	names := map[string]bool{}
	for path := range l {
		rest := path
		if folder != "" {
			var ok bool
			if rest, ok = strings.CutPrefix(path, folder+"/"); !ok {
				continue
			}
		}
		name, _, deeper := strings.Cut(rest, "/")
		names[name] = names[name] || deeper
	}
	out := slices.Sorted(maps.Keys(names))
	for i, name := range out {
		if names[name] {
			out[i] += "/"
		}
	}
	return out
}

// key is a public key under a name.
type key struct{ name, text string }

// named gives the keys names: their comments (sshd(8), AUTHORIZED_KEYS FILE FORMAT) as far as those are fit to be names, and
// told apart.
func (g *Guest) named() []key {
	taken := map[string]bool{}
	var out []key
	for i, text := range g.Keys {
		name := "key-" + strconv.Itoa(i)
		if f := strings.Fields(text); len(f) > 2 {
			name = strings.Map(nameable, f[len(f)-1])
		}
		for taken[name] {
			name += "-" + strconv.Itoa(i)
		}
		taken[name] = true
		out = append(out, key{name, text})
	}
	return out
}

// nameable keeps what has no meaning in a list of EC2's.
func nameable(r rune) rune {
	if strings.ContainsRune("@._-", r) || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
		return r
	}
	return '-'
}
