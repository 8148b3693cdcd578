# The look of pgindent, as src/.clang-format has it: indentation, braces, blanks around operators.  Line breaks and the runs of blanks that align
# declarations and comments are the author's, so both sides are compared without them.
use strict;
use warnings;

use File::Temp;
use lib 'test/style';
use Sources;
use Test::More;

# What of a file's look is compared: indentation in columns, then words with one blank between them, lists on one line.
sub look
{
	my ($text) = @_;

	1 while $text =~ s/^( *)\t/$1 . ' ' x (4 - length($1) % 4)/meg;
	$text =~ s/(?<=\S)[ \t]+/ /g;
	$text =~ s/([,:?&|])\s*\n\s*/$1 /g;				# line breaks in lists and conditions
	$text =~ s/\s*\n\s*(?=[:?&|])/ /g;
	$text =~ s/\)\s*\n\s*\[/)[/g;					# what looks like a macro
	$text =~ s/,\s*\}/}/g;							# and ends of lists
	$text =~ s/,(?=[\[.])/, /g;						# pgindent joins designators
	$text =~ s/\}\s*\n\s*\};/}};/g;
	$text =~ s/(\(\*\w*\)) \(/$1(/g;				# pgindent parts (*function) (arguments)
	$text =~ s/\) \{/){/g;							# and (type) {values}
	return $text;
}

# The text with words that mean something only in C++, which the formatter takes it for, changed.
sub without_cplusplus
{
	my ($text) = @_;

	return $text =~ s/\b(catch|class|delete|explicit|export|friend|mutable|namespace|new|operator|private|protected|public|template|this|throw|try|typename|using|virtual)\b/$1_/gr;
}

# A file's text as the formatter would have it.
sub formatted
{
	my ($path) = @_;
	my $copy = File::Temp->new(SUFFIX => '.c');
	my ($formatter) = grep { system("command -v $_ >/dev/null") == 0 } qw(clang-format-14 clang-format);

	print $copy without_cplusplus(contents($path));
	close($copy);
	return scalar `$formatter --style=file:src/.clang-format $copy`;
}

foreach my $path (c_files())
{
	my @ours = split(/\n/, look(without_cplusplus(contents($path))));
	my @theirs = split(/\n/, look(formatted($path)));
	my $line = 0;

	$line++ while $line < @ours and $line < @theirs and $ours[$line] eq $theirs[$line];
	is($ours[$line], $theirs[$line], "$path looks as pgindent would have it");
}
done_testing();
