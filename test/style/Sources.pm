# The C sources as the style tests see them.  Run from the top of the tree.
package Sources;

use strict;
use warnings;

use Exporter 'import';
our @EXPORT = qw(c_files contents without_comments functions exceptions);

# Paths of all C files and headers.
sub c_files
{
	return sort(glob('src/*.[ch]'), glob('src/*/*.[ch]'));
}

sub contents
{
	my ($path) = @_;

	open(my $file, '<', $path) or die "$path: $!";
	local $/;
	return scalar <$file>;
}

# The text with comments and the contents of strings blanked, every character in its place.
sub without_comments
{
	my ($text) = @_;
	my $blank = sub { my ($part) = @_; $part =~ s/[^\n]/ /g; return $part; };

	$text =~ s{
		(/\*.*?\*/|//[^\n]*)		# a comment
		| "((?:[^"\\\n]|\\.)*)"		# a string
		| ('(?:[^'\\\n]|\\.)')		# a character
	}{ defined $1 ? $blank->($1) : defined $2 ? '"' . $blank->($2) . '"' : $blank->($3) }gsex;
	return $text;
}

# The functions a file defines, as hashes: name, line, lines (of its body), parameters (texts), sql (called by SQL), comment (the text before it).
sub functions
{
	my ($text) = @_;
	my $code = without_comments($text);
	my @functions;

	while ($code =~ /^(?:[A-Za-z_][^;{}()#\n]*\n)([A-Za-z_]\w*)\(([^;{}]*?)\)\n\{\n(.*?)^\}/gms)
	{
		my ($name, $parameters, $body, $start) = ($1, $2, $3, $-[0]);
		my $before = substr($text, 0, $start);

		$before =~ s/PG_FUNCTION_INFO_V1\(\w+\);\s*\z//;
		my ($comment) = $before =~ m{/\*((?:(?!\*/).)*)\*/\s*\z}s;
		push @functions,
		  {
			name => $name,
			line => 1 + ($before =~ tr/\n//),
			lines => ($body =~ tr/\n//),
			parameters => [ $parameters =~ /^\s*(?:void)?\s*$/ ? () : split(/,/, $parameters) ],
			sql => $parameters eq 'PG_FUNCTION_ARGS',
			comment => $comment,
		  };
	}
	return @functions;
}

# The lines of test/style/exceptions of one kind, as a hash of subject to reason.
sub exceptions
{
	my ($kind) = @_;

	return map { /^\Q$kind\E\s+(\S+)\s+(\S.*)$/ ? ($1 => $2) : () } split(/\n/, contents('test/style/exceptions'));
}

1;
