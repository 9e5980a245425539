// Package remote reads one source over SFTP and believes nothing it says.
//
// A Source keeps several SSH connections with several SFTP channels each, and spreads listings and reads over them. Everything a
// server can do wrong ends in an error of a known kind within a known time: names are checked, every answer has a bounded size,
// a read asks for an exact number of bytes and gets them or is reported short, and an operation that makes no progress costs the
// connection that it runs on.
//
// What pkg/sftp does here: it greets, and looks at paths and links. What it does not do: list directories and read files. It
// gathers a whole listing before it returns, so that a server that never ends one fills the memory, and it cuts names at their last
// slash, so that "x/.." arrives as "..". It asks for one thing at a time, where a small file wants READ, FSTAT and CLOSE in one burst, and
// copies content once more than it has to. Listings and files therefore go through a small codec of our own which shares the channel
// with pkg/sftp: its requests carry ids with the highest bit set, and the stream between the channel and pkg/sftp takes out the answers to them.
//
//	ssh connection (wire: deadlines, counters, gathered writes)
//	  +- ssh channel -- stream --+-- own codec: OPENDIR READDIR OPEN READ FSTAT CLOSE limits@openssh.com
//	  |                          +-- pkg/sftp:  LSTAT READLINK
//	  +- ssh channel -- stream -- ...
package remote
