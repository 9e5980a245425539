package remote

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// ParseURL takes sftp://USER@HOST[:PORT]/PATH apart. The port is 22 unless given, the path "/" if empty and without a trailing slash
// otherwise. A password in the URL is refused: keys only.
func ParseURL(s string) (user, host string, port int, path string, err error) {
	u, err := url.Parse(s)
	if err != nil {
		return "", "", 0, "", fmt.Errorf("source %q is not a URL: write sftp://USER@HOST[:PORT]/PATH", s)
	}
	fail := func(why string) (string, string, int, string, error) {
		return "", "", 0, "", fmt.Errorf("source %q: %s: write sftp://USER@HOST[:PORT]/PATH", s, why)
	}
	switch {
	case u.Scheme != "sftp":
		return fail("the scheme must be sftp")
	case u.User == nil || u.User.Username() == "":
		return fail("the user is missing")
	case u.Hostname() == "":
		return fail("the host is missing")
	case u.RawQuery != "" || u.Fragment != "":
		return fail("? and # must be written %3F and %23")
	}
	if _, secret := u.User.Password(); secret {
		return "", "", 0, "", fmt.Errorf("source at %q: passwords are not supported, use a key", u.Host)
	}
	port = 22
	if p := u.Port(); p != "" {
		if port, err = strconv.Atoi(p); err != nil || port < 1 || port > 65535 {
			return fail("the port must be between 1 and 65535")
		}
	}
	if path = strings.TrimRight(u.Path, "/"); path == "" {
		return u.User.Username(), u.Hostname(), port, "/", nil
	}
	for name := range strings.SplitSeq(path[1:], "/") {
		if why := badName(name); why != "" {
			return fail(fmt.Sprintf("path component %q: %s", name, why))
		}
	}
	return u.User.Username(), u.Hostname(), port, path, nil
}
