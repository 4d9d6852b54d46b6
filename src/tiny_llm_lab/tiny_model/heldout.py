"""What the embedded model is scored on and never sees in training: names, phrasings, requests.

`corpus.py` and its parts must not produce any of these; tests/lab/test_tiny_model.py checks it.
"""

from .words import _lines, _split

NAMES = _split("""
abacus accordion aquarium asteroid avocado bagpipe balcony bandana barometer bassoon beetroot
bluebell bobsled bonfire boomerang bracelet buffet bungalow cabinet calendar cannon caramel cashew
cauldron cello chandelier chimney clarinet cobweb coconut compost corkscrew crouton cucumber cupcake
cushion dagger dandelion dashboard dinghy domino doorbell doughnut dragonfly dynamo eggplant eyelash
faucet ferret fishhook flannel flamingo foghorn funnel galaxy gazebo geyser gondola gramophone
greenhouse hairpin halibut harness hatchet hickory hourglass hummingbird icicle igloo jalapeno
javelin jigsaw kayak kennel kiosk ladybug lasso latch lava lighthouse lobster locket lollipop
macaroon magnolia mahogany mandolin marigold matchbox meteor microscope mongoose mosaic mulberry
nectarine nightingale nozzle oboe omelette ostrich oyster pagoda pancreas papaya paprika parachute
parsnip pelican periscope petunia pineapple pinwheel porcupine pulley pumpkin quiche raccoon rattle
rhubarb rickshaw sardine saxophone scaffold scarecrow seaweed shovel silo skillet snorkel spatula
spindle sprocket stethoscope sunflower tambourine tangerine tapestry telescope thermos tortoise
trapeze tricycle trombone truffle turbine unicycle vacuum vestibule vulture walrus wardrobe
watermelon weasel wheelbarrow windmill wombat xylophone yacht zeppelin zucchini
""")

# Each of these turns of phrase is missing from the templates of `ledger.py`.
PHRASINGS = _lines("""
I can't remember what we put down for {k}. Can you?
Could you dig up the figure on record for {k}?
Would you mind telling me where {k} stands?
Any idea what {k} came to?
What figure did they note against {k}?
What would I find if I looked at {k}?
Go through the lines and report back on {k}.
Scan the text above and stop at {k}. What does it say there?
My boss is asking about {k}.
The customer wants to hear about {k}; what do I reply?
{k}: what have we got?
Please confirm the amount recorded for {k}.
Kindly advise regarding {k}.
I'd love to hear what {k} is.
Say, what was {k} again?
Which one is it for {k}?
Someone just phoned about {k}. What should I answer?
Fill in the blank: {k}: ____
Complete this line: {k}:
Repeat to me only the line with {k} in it.
Skip everything except {k}.
Just {k}, nothing else.
Only {k} matters to me right now.
Of all these, I care about {k}.
Given the information above, determine {k}.
Extract {k}.
Identify what was noted down for {k}.
Let us talk about {k}. What is its number?
Where does {k} stand?
May I have {k}?
""")

REQUESTS = _lines("""
What is the capital of France?
Write a Python function that sorts a list.
Make me laugh with something witty.
Who won the world cup in 2018?
Translate "good morning" into Spanish.
What is the weather like today?
Explain quantum mechanics to me.
How do I bake bread?
Why is grass green?
What is the square root of 144?
What is 347 * 29?
Summarize the plot of Hamlet.
Give me five tips for better sleep.
Who is the president of the United States?
Recommend a good movie.
Fix this bug: for i in range(10) print(i)
What time is it in Tokyo?
How many moons does Jupiter have?
Write an email to my boss asking for a day off.
What is the best way to learn guitar?
Is it going to rain tomorrow?
Do you have feelings?
Sing me a song.
Plan a weekend trip for two people.
Compose a haiku about autumn.
Define photosynthesis.
Who was Napoleon?
List the planets of the solar system.
How do airplanes fly?
Convert 10 miles to kilometers.
What is the airspeed velocity of an unladen swallow?
SELECT * FROM users WHERE id = 3;
Can dogs see colours?
asdf qwer zxcv uiop
Bonjour, comment allez-vous ?
Wie komme ich zum Bahnhof?
What happened in 1066?
Name a famous painter.
Give me a recipe for lasagna.
Should I invest in stocks?
What's your favourite colour?
How far away is the moon?
Draw a picture of a house.
What does HTTP stand for?
Who let the dogs out?
Prove that there are infinitely many primes.
Crank up the stereo, would you?
What does it feel like to be in love?
Dim the lamp in the hallway.
Book a flight to Berlin for next Tuesday.
""")
