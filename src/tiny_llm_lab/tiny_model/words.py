"""The vocabularies from which the corpus is made.

Everything here was typed for this course; nothing is copied from a data set. The held-out words
live in `heldout.py` and must not appear here: a test checks it.
"""

from __future__ import annotations


def _split(text: str) -> list[str]:
    """Words of a block of text, without repeats, in the order in which they stand."""
    return list(dict.fromkeys(text.split()))


def _lines(text: str) -> list[str]:
    """Lines of a block of text, stripped, without empty ones and repeats."""
    return list(dict.fromkeys(line.strip() for line in text.strip().splitlines() if line.strip()))


THINGS = _split("""
alder ash aspen bamboo beech birch cedar cherry cypress elm fir hazel holly juniper larch laurel
linden maple oak olive palm pear pine plum poplar rowan spruce sumac walnut willow acorn amber
anchor anvil apple apron arrow attic badge bagel banjo barn barrel basil basin basket beacon bead
beam bean bell bench berry bicycle blanket blossom boat bolt bonnet book boot bottle boulder bow
bowl box bracket branch bread brick bridge broom brush bucket buckle button cabin cable cactus
camera canal candle canoe canvas canyon cape caravan carpet carrot cart castle cave cellar chain
chair chalk chapel chest chime chisel cider circle clay cliff cloak clock cloud clover coast coat
cobble comet compass copper coral cork corn cottage cotton cradle crane crater creek crown crystal
cup curtain daisy dawn delta desert desk dial diamond dome door drum dune easel echo elbow ember
engine fable feather fence fern ferry fiddle field flag flame flask flint flute foam forest fork
fossil fountain frost garden garlic garnet gate ginger glacier glass glove grain granite grape
gravel grove guitar hammer harbor harp hatch hay heather hedge helmet hill hinge honey hood hook
horn hut ice inlet iris iron island ivory ivy jacket jar jasmine jewel jungle kettle key kite knot
ladder lagoon lake lamp lantern leaf ledge lemon lentil lever lily lime lizard lobby lock loom
lotus magnet mango mantle marble market marsh mast meadow melon mesa mill mint mirror mitten moon
mortar moss motor mountain music nest nettle nickel north nutmeg oar oasis oats ocean onion onyx
opal orange orchard oven paddle paint paper parade pasture path pearl pebble pedal pencil pepper
petal piano pickle pillar pillow pipe plank planet plate plow pocket pond poppy porch potato
prairie prism pump purse puzzle quarry quartz quill radio raft rain reed reef ribbon rice ridge
ring river rocket roof rope rose ruby rug saddle saffron sage sail salt sand sapphire scarf school
scroll sea seed shell shelf shield ship shoe shore silk silver skate sky slate sled snow sofa spade
spark spice spoon spring squash stable star station steam stone storm stove straw stream street
sugar summit sword table tea temple tent thimble thistle thorn thread tile timber tin toast topaz
torch tower trail train tray trumpet tulip tunnel turnip valley vase velvet vine violet violin wagon
wall water wave well wheat wheel whistle window wing winter wood wool yarn zinc bus truck phone
screen cables mouse keyboard printer laptop server router disk paperclip stapler folder envelope
stamp notebook pen ruler eraser tape glue scissors broomstick mop sponge soap towel shampoo comb
razor mattress blender toaster fridge freezer kitchen hammock ladle whisk grater napkin jug mug
teapot saucer tank pistol rifle helmetstrap wallet coin ticket passport suitcase backpack umbrella
""")

FOODS = _split("""
apples bananas oranges lemons grapes pears peaches plums cherries eggs milk butter cheese flour
salmon tuna beef pork ham bacon sausages beans peas carrots onions potatoes tomatoes lettuce
spinach mushrooms noodles pasta pizza soup salad sandwich burger cake cookies chocolate biscuits
coffee juice wine beer cereal yogurt jam peanuts almonds raisins mustard vinegar ketchup pancakes
waffles muffins pretzels popcorn pie stew curry sushi tofu cabbage celery radish broccoli kale
""")

ANIMALS = _split("""
cat dog bird horse mouse bear frog duck sheep bee fish hen fox wolf owl lion tiger rabbit goat
cow pig otter badger beaver crow dove eagle falcon goose hawk heron lark mule panda parrot pony
quail raven robin snail swan turtle whale wren zebra camel cricket crab seal moose donkey lamb
spider ant dolphin shark monkey giraffe elephant kangaroo penguin squirrel hamster salmon toad
""")

PEOPLE = _split("""
Mia Leo Ana Ben Zoe Max Ida Sam Eva Tom Lily Noah Ruth Hugo Nina Omar Alice Bob Carol Dave Erin
Frank Grace Heidi Ivan Judy Karl Laura Mark Nora Oscar Peter Quinn Rosa Steve Tina Uma Victor
Wendy Xavier Yara Zack Anna Lucas Emma Oliver Sofia Liam Olivia James Henry Jack Emily Jacob
Charlotte Daniel Chloe David Ella George Hannah Isaac Julia Kevin Leah Martin Maria Nathan Paula
Rachel Robert Sarah Simon Susan Thomas Vera Walter John Mary Paul Linda Michael Jane Richard
Helen Edward Alan Clara Diego Elena Felix Gina Hassan Irene Jonas Kira Lars Marta Nils Olga Pablo
Raj Sven Tara Ulrich Wanda Yusuf Zara Amir Bella Carlos Diana Fatima Chen Wei Ravi Priya Aisha
""")

CITIES = _split("""
Paris London Berlin Madrid Rome Tokyo Beijing Moscow Cairo Delhi Lisbon Vienna Prague Dublin Oslo
Athens Warsaw Budapest Boston Chicago Dallas Denver Seattle Toronto Sydney Melbourne Lagos Nairobi
Lima Bogota Mumbai Shanghai Seoul Bangkok Jakarta Istanbul Geneva Munich Hamburg Milan Venice
Florence Naples Barcelona Porto Brussels Amsterdam Copenhagen Stockholm Miami Atlanta Houston
""")

COUNTRIES = _split("""
France Germany Spain Italy Japan China Russia Egypt India Portugal Austria Ireland Norway Greece
Poland Hungary Canada Australia Nigeria Kenya Peru Colombia Korea Thailand Indonesia Turkey
Switzerland Belgium Denmark Sweden Brazil Mexico Argentina Chile Cuba England Scotland Ukraine
Vietnam Pakistan Iran Iraq Israel Morocco Ghana Ethiopia Finland Iceland Croatia America
""")

LANGUAGES = _split("""
French German Spanish Italian Japanese Chinese Russian Arabic Hindi Portuguese Greek Polish Dutch
Swedish Turkish Korean Latin English Danish Norwegian Hungarian Hebrew Thai Vietnamese
""")

CODE_LANGUAGES = _split("""
Python Java JavaScript C Rust Go Ruby Swift SQL Bash Haskell Perl PHP TypeScript Kotlin Lua HTML
CSS Scala C++ Matlab R
""")

JOBS = _split("""
teacher doctor nurse farmer baker pilot sailor painter singer writer lawyer judge engineer plumber
carpenter chef waiter president king queen minister mayor scientist poet actor driver soldier
pirate wizard detective librarian gardener dentist mechanic astronaut programmer manager student
""")

TOPICS = _split("""
love peace war history science physics chemistry biology geology algebra geometry calculus
philosophy religion politics economics money inflation gravity energy light electricity magnetism
photosynthesis evolution genetics atoms molecules bacteria viruses vaccines medicine cancer
democracy freedom justice art poetry painting dance theater film football basketball tennis chess
cricket hockey golf swimming running cycling hiking yoga cooking baking gardening fishing travel
dreams memory language grammar computers internet software hardware databases networks robots
algorithms compilers transistors satellites rockets galaxies planets stars comets volcanoes
earthquakes hurricanes climate weather oceans rivers deserts forests dinosaurs mammals insects
sleep exercise health diet stress happiness friendship family marriage school homework exams work
success failure time space infinity entropy recursion blockchain bitcoin stocks taxes insurance
""")

COLORS = _split("red blue green yellow black white brown pink purple gray gold tan silver orange")

ADJECTIVES = _split("""
small kind brave quiet happy old young clever shy busy big long short tall fast slow hot cold warm
new good bad best worst nice funny sad angry tired hungry rich poor strong weak easy hard simple
famous important healthy cheap expensive beautiful ugly clean dirty dark bright heavy loud soft
deep high low wide narrow early late modern ancient common rare strange secret magic wild sweet
""")

VERBS = _split("""
make build draw paint sing dance run walk jump swim fly drive ride cook bake eat drink sleep read
write learn teach study play win lose buy sell pay save spend open close start stop fix break
clean wash cut grow plant water catch throw push pull carry hold bring take send meet visit leave
help love hate like want need think know believe remember forget hear see watch feel touch smell
taste speak talk listen ask answer explain describe solve compute compare choose change improve
sort reverse parse merge filter validate download upload install delete search train test
""")

GLUE = _split("""
the a an of for to in on at by with from and or but so as is are was were be been am do does did
have has had can could would should will may might must not no yes it its this that these those
there here then now just only also too very more most less some any all each every other my your
our their his her me you we they he she i us them who whom which what when where why how if
because while until about over under after before again once please ok okay well right really
""")

GENERAL = list(
    dict.fromkeys(THINGS + FOODS + ANIMALS + TOPICS + COLORS + ADJECTIVES + VERBS + JOBS + GLUE)
)
PROPER = list(dict.fromkeys(PEOPLE + CITIES + COUNTRIES + LANGUAGES + CODE_LANGUAGES[:4]))

# What a value is called in a question about a ledger, and in a ledger's heading.
VALUE_NOUNS = _split("""
value number amount price count quantity entry total score figure stock balance cost code record
result data level rate reading mark points size weight age rank status answer
""")
LEDGER_NOUNS = _split("""
ledger list table data prices inventory stock items entries records numbers values scores figures
register notes sheet log index catalog accounts balances counts amounts results stocks readings
""")

PLACES = _split("park beach farm library kitchen bakery museum zoo village port")
STORY_THINGS = _split("ball map hat coin cake letter drum kite lamp shell book stone")
STORY_ADJECTIVES = _split("small kind brave quiet happy old young clever shy busy")

NUMBER_WORDS = _split("""
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty
""")
