# Files and functions are small and say what they are.  If this fails, somebody has to hold too much in mind at once, or cannot learn
# from the door of a room what is in it.
use strict;
use warnings;

use lib 'test/style';
use Sources;
use Test::More;

use constant {
	FILE_LINES => 800,
	FUNCTION_LINES => 80,
	PARAMETERS => 7,
	CODE_WIDTH => 128,
	PROSE_WIDTH => 160
};

my %long_file = exceptions('file');
my %long_function = exceptions('function');
my %many_parameters = exceptions('parameters');

foreach my $path (c_files())
{
	my $text = contents($path);
	my $lines = ($text =~ tr/\n//);
	my @wrong;

	push @wrong, "$path has $lines lines" if $lines > FILE_LINES and !$long_file{$path};
	push @wrong, "$path does not open with a comment that names it and says what it is"
	  unless $text =~ m{\A/\*\n \* \Q${\ ($path =~ s/^src\///r)}\E\n \*\t\t\S};
	push @wrong, "$path speaks of things to do" if $text =~ /\b(?:TODO|FIXME|XXX)\b/;
	foreach my $function (functions($text))
	{
		my $where = "$path:$function->{line}: $function->{name}";
		my $comment = $function->{comment} // '';

		push @wrong, "$where has $function->{lines} lines"
		  if $function->{lines} > FUNCTION_LINES and !$long_function{ $function->{name} };
		push @wrong, "$where has " . @{ $function->{parameters} } . ' parameters'
		  if @{ $function->{parameters} } > PARAMETERS and !$many_parameters{ $function->{name} };
		push @wrong, "$where has no comment that starts with its SQL signature"
		  if $function->{sql} and $comment !~ /\A[\s*]*cqrs(?:_internal)?\./;
		push @wrong, "$where has no comment that starts with its name"
		  if !$function->{sql} and $comment !~ /\A[\s*]*\Q$function->{name}\E\b/;
	}
	is(join("\n", @wrong), '', "$path is small and says what it is");
}

# Blanks, in everything people write here; test/data is others'.
my @texts = (c_files(), glob('src/install/*.sql sql/*.sql test/*/*.pl test/*/*.pm test/*/run test/run/* test/*/*.sql test/isolation/specs/*.spec'),
	qw(Makefile cqrs.control .ci/run README.md));
foreach my $path (grep { -f && !m{^test/data/} } @texts)
{
	my @code = split(/\n/, without_comments(contents($path)));
	my $number = 0;
	my @wrong;

	foreach my $line (split(/\n/, contents($path)))
	{
		my $code = ($code[$number++] // '') =~ s/\s+$//r;
		my $code_width = length($code =~ s/\t/    /gr =~ s/" *"/""/gr);	# messages are not broken
		my $width = length($line =~ s/\t/    /gr);

		push @wrong, "$path:$number ends in blanks" if $line =~ /[ \t\r]$/;
		push @wrong, "$path:$number is indented by blanks" if $path =~ /\.[ch]$/ and $line =~ /^ (?! ?\*)/;
		push @wrong, "$path:$number is $width wide"
		  if $path =~ /\.[ch]$/ and ($code_width > CODE_WIDTH or $width > PROSE_WIDTH);
	}
	push @wrong, "$path does not end in a newline" unless contents($path) =~ /\n\z/;
	is(join("\n", @wrong), '', "$path has its blanks in order");
}
done_testing();
