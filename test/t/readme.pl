# Every example of README.md, in its order, in one database of a server with the settings that README.md shows.  If this fails, what a newcomer
# tries first does not work, or does not print what we say it prints.
#
# A block of SQL that is followed by a block of text must print that text, blanks at the ends of lines apart; `...` in it stands for anything on
# one line.  Other blocks must run without an error.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $readme = slurp_file('README.md');
my @settings;
my @examples;

# All blocks, those of SQL with the text that follows at once.
while ($readme =~ /^```(\w*)\n(.*?)^```\n(?:```text\n(.*?)^```\n)?/gms)
{
	my ($language, $block, $output, $before) = ($1, $2, $3, substr($readme, 0, $-[0]));

	push @settings, $block if $language eq 'conf';
	push @examples, { line => 2 + ($before =~ tr/\n//), sql => $block, output => $output } if $language eq 'sql';
	fail('README.md has a block of text without SQL before it: ' . substr($block, 0, 60)) if $language eq 'text';
}
cmp_ok(scalar @examples, '>', 20, 'README.md has examples');

my $node = PostgreSQL::Test::Cluster->new('readme');
$node->init;
$node->append_conf('postgresql.conf', join("\n", @settings));
$node->start;

# What psql printed, without the places of errors in its input, blanks at the ends of lines and empty lines at the end.
sub tidy
{
	my ($text) = @_;

	$text =~ s/^psql:<stdin>:\d+: //mg;
	$text =~ s/[ \t]+$//mg;
	$text =~ s/\n+\z/\n/;
	return $text;
}

foreach my $example (@examples)
{
	my $where = "the example in line $example->{line}";
	my $printed;

	run_log([ 'sh', '-c', 'exec psql -X -q -f - -d "$1" 2>&1', 'sh', $node->connstr('postgres') ],
		'<', \$example->{sql}, '>', \$printed);
	$printed = tidy($printed);
	if (defined $example->{output})
	{
		my $expected = join('[^\n]*', map { quotemeta } split(/\.\.\./, tidy($example->{output}), -1));

		like($printed, qr/\A$expected\z/, "$where prints what follows it");
	}
	else
	{
		unlike($printed, qr/^(?:ERROR|FATAL|WARNING):/m, "$where runs");
	}
}
$node->stop;
done_testing();
