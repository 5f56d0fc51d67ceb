"""The word material of `nih.prompts.prose`: scenes, written for this project.

A scene is a block that starts with `# name`. Its fields hold entries separated by `;`:
at (where), m f p (people: he, she, they), do (actions in the order of the day, verb first, further verbs after `*`),
is (what was going on around), say (things people say), see (things that lie about).
`a/b` are alternatives, `_` is a space inside one, an empty alternative drops the word.
`~` is the actor's his/her/their/my/our, `^` he/she, `@` him/her, `&` himself/herself, `=` was/were, `+` the s of a verb in
the present.

A frame is a sentence with slots. v p i g s are the next action as past, participle, infinitive, -ing and present, in
capitals that of the other person; m q are said with my, y Q with your, o with our, z pz with their. S is the actor by
name or pronoun, N by name, B the other person; U is something said, W something asked; the rest are fields and pools.
"""

SCENES = """
# bakery
at: in the bakery; behind the counter; at the back of the shop; beside the oven
m: the baker; the delivery boy; the owner's son
f: the apprentice; the owner; the baker's wife
p: the customers; the two bakers; the neighbors
do: unlock/open the back/side door before dawn; light/check the oven; wash ~ hands and *tie on ~ apron;
 weigh/measure/sift the flour/sugar; mix the yeast with warm/a_little water; knead/fold/stretch the dough on
 the table; leave the dough to rise under a clean/damp cloth; crack the eggs into a bowl; shape the
 loaves/rolls/buns by hand; brush the pastries/tarts/loaves with milk/butter/egg; slide the first trays/loaves
 into the oven; sweep the flour from the floor/bench; taste/try a corner/crumb/piece of the cake; set/stack
 the bread on the racks to cool; slice a loaf for the soup kitchen; write the prices on the blackboard; fill
 the window/shelves with cakes/rolls/pastries; count the coins/change in the drawer; wrap a warm loaf/bun/pie
 in paper; hand the bag/box across the counter; carry the orders/baskets out to the van; scrape/scrub the
 mixing bowls/tins; ask about the birthday/wedding cake; order more flour/sugar/almonds/raisins for the
 weekend; hang ~ apron behind the door
is: the smell of fresh/warm bread filled the shop/street; the oven ticked/hummed as it cooled/warmed; the
 windows had steamed over; a line was forming outside; flour hung/floated in the light; the dough was rising
 slowly under its cloth; the bell over the door kept ringing; the street was still dark/empty; the cinnamon
 rolls were almost gone; the radio played softly in the corner; the first tray came out too brown/pale
say: the bread will be ready in ten minutes; we are out of rye/butter/almonds again; do you want it sliced?;
 it needs more salt/sugar/time; my grandmother used the same recipe; try one while it is warm; can you watch
 the oven for a minute?; I never get tired of that smell
see: a tray/basket of warm/fresh rolls/buns/pretzels; a sack of flour; a jar of honey/jam/yeast; a dozen
 eggs/muffins; an apple/cherry/plum pie; a rolling pin; a chocolate/lemon/carrot cake; a bowl of
 icing/batter/raisins; a stack of paper bags/boxes
# harbour
at: in the harbor; on the quay; at the end of the pier; on the deck; by the boathouse
m: the fisherman; the captain; the harbor master; the old sailor
f: the captain's daughter; the skipper; the boat builder
p: the crew; the fishermen; the dockers
do: check/study the tide tables/forecast; walk down to the boat/quay before sunrise; untie/loosen the
 ropes/lines; start/warm the engine; load the crates/nets/barrels on board; steer/sail the boat past the
 breakwater/lighthouse; raise/trim the sail; drop/lower the anchor in shallow/deep water; let out/mend the
 nets; bait the hooks; watch/follow the gulls/seals/clouds; haul/pull the nets/pots over the rail; sort the
 catch into boxes; throw the small/young fish back into the sea; turn/head back toward the harbor; call the
 coast guard on the radio; tie up the boat at the pier/quay; unload the herring/mackerel/crabs/lobsters/cod;
 sell most of the catch to the restaurants/market; hose/rinse down the deck; coil the ropes; patch/paint the
 hull; pack the fish in ice; look out to sea; drink a cup of tea/coffee in the cabin; climb the ladder to the
 quay
is: the tide was going out/coming in; the gulls were screaming/circling overhead; a cold/stiff/salty wind blew
 off the water; the fog had begun to lift; waves slapped against the hull/pier; the boats rocked gently at
 their moorings; the water was flat/gray/calm; the engine coughed/rattled and died; diesel and salt hung in
 the air; the last ferry was leaving; the lights of the town came on one by one; a storm was building in the
 west
say: the wind is turning; there is not much fish this year; how long until high tide?; keep hold of that rope;
 we should be back before dark; I have seen worse weather; is that our boat?; nobody goes out in a sea like
 this
see: a coil of rope; a crate of mackerel/crabs/ice; a torn/tangled net; a rusty/heavy chain; a pair of rubber
 boots; a broken oar; a life jacket; a bucket/barrel of bait; a chart of the coast; an old/upturned dinghy; a
 string of buoys
# restaurant
at: in the kitchen; in the dining room; at the corner table; behind the bar
m: the cook; the waiter; the manager
f: the chef; the waitress; the hostess
p: the guests; the kitchen staff; the waiters
do: read through the reservations/bookings; sharpen ~ knives; chop/peel/slice the onions/carrots/potatoes;
 simmer the stock/sauce over a low flame; set/lay the tables by the window; fold the napkins; polish the
 glasses/cutlery; fill the salt shakers; seat a family/couple near the window; pour/offer the wine/water;
 recommend/suggest the soup/lamb/trout; take the order; fry the fish/mushrooms/garlic in butter; season the
 steak/stew/beans with pepper/herbs; taste the sauce/broth; plate/arrange the vegetables/salad; carry the
 plates/dishes to the table; bring the bill/menu; apologize for the delay/wait; clear away the empty/dirty
 plates; send the soup/dessert back; load the dishwasher; wipe down the counters/stove; divide/share the tips;
 turn off the lights in the dining room
is: the kitchen was hot/noisy/crowded; the dining room was nearly full/empty; steam rose from the pots/pans;
 plates clattered in the sink; someone laughed loudly at the next table; butter hissed/foamed in the pan; the
 candles had burned low; the orders kept coming; the rain ran down the windows; the dessert was late; the
 smell of garlic/basil/onions drifted through the room
say: table seven is still waiting; the soup is too salty; would you like to see the dessert menu?; we close in
 half an hour; the fish is very good today; who ordered the lamb?; I need two more plates; I will have the
 same
see: a basket of bread; a plate of olives/oysters/noodles; a bottle of wine/vinegar; a bowl of
 soup/rice/pasta/lentils; a carafe of water; a stack of menus; a bunch of parsley/thyme/radishes; a roast
 chicken/duck; a slice of cheesecake; a clean/white tablecloth
# workshop
at: in the workshop; at the workbench; in the yard; under the window
m: the carpenter; the joiner; the cabinetmaker
f: the cabinetmaker's niece; the customer; the apprentice
p: the carpenters; the apprentices; the brothers
do: study/unroll the drawing/plan; choose/pick a board/plank without knots; mark/measure the length with a
 pencil; clamp the wood/board to the bench; saw/cut the planks/boards to size; plane/sand/smooth the
 edge/surface; drill/bore the holes; carve/cut the joints with a chisel; fit/join the legs to the frame;
 knock/tap the pegs in with a mallet; glue the panels together; wipe off the extra glue; hang the doors on
 their hinges; tighten/turn the screws; blow the dust from ~ sleeves/hands; stain/oil/varnish the
 tabletop/cabinet; sharpen the blades/chisels on the stone; sweep up the shavings/sawdust; put the
 tools/clamps back on their hooks; explain/show the grain of the wood; try the drawers/lid one more time; load
 the table/bookcase/wardrobe onto the truck; start again/over with a fresh piece
is: sawdust covered the floor; the glue was not dry yet; the saw whined in the next room; the workshop smelled
 of pine/cedar and varnish; light fell across the bench; shavings curled from the plane; one of the legs was
 slightly too short; the wood had begun to warp/split; the stove in the corner kept the room warm; the drawers
 ran smoothly; a half-finished chair/bed/cupboard stood by the wall
say: measure twice and cut once; this is good oak/ash/beech; can you hold the other end?; it will last a
 hundred years; the glue needs a night to dry; who left the plane out?; that joint is not tight enough; it is
 only firewood now
see: a box of screws/nails/hinges; a pot/tube of glue; a set of chisels; a stack of planks; a sheet of
 sandpaper/plywood; a tape measure; an unfinished bookshelf/cradle; a hand plane/saw; a can of varnish/linseed
 oil; a pencil behind the vise
# school
at: in the classroom; at the back of the class; in the corridor; on the playground; in the staff room
m: the teacher; the new boy; the principal; the caretaker
f: the teacher; the oldest girl; the headmistress
p: the children; the pupils; the students; the teachers
do: ring/hear the first bell; hang up ~ coat; call/read out the names on the list; collect/hand_in the
 homework/essays; write the date/question/title on the board; open the atlas/textbook at the right page; copy
 the sums/spellings into a notebook; recite/learn the poem/tables by heart; raise/put_up ~ hand;
 explain/repeat the rule/problem/fraction once more; whisper the answer to a friend; draw a
 triangle/map/volcano on the board; look up the word/spelling in the dictionary; correct/mark the
 tests/exercises in red ink; borrow/lend a pencil/ruler/eraser; eat ~ sandwich/apple at break; run/race across
 the playground; kick the ball over the fence; share out the paper/paints/scissors; rehearse the school play;
 tell/read a story to the younger children; stay behind to finish the experiment/essay; clean/wipe the board;
 pack ~ bag/books; wait for the bus/bell at the gate
is: chalk dust hung in the air; the class had gone quiet; everybody was looking out of the window; the bell
 rang for lunch/break; the radiators clanked/gurgled; somebody giggled in the back row; chairs scraped on the
 floor; paper airplanes lay under the desks; rain kept everyone indoors; the exam was only a week away; the
 youngest ones were already yawning; the corridor smelled of floor polish and oranges
say: could I go to the nurse?; open your books at the last chapter; who can tell me why?; that is a very good
 question; I left my homework on the bus; read it again, slowly this time; there will be a test next week; it
 is not fair
see: a pile of exercise books; a box of crayons/chalk/paints; a globe of the moon; a broken ruler; a lunch
 box; a spelling list; a map of the world; a pencil case; a jar of tadpoles/marbles/beans; a poster about
 volcanoes/whales/recycling; a stuffed owl
# hospital
at: on the ward; in the waiting room; by the bed; in the corridor; at the nurses' station
m: the doctor; the patient; the surgeon; the porter
f: the nurse; the doctor; the patient; the night nurse
p: the nurses; the doctors; the visitors; the relatives
do: start ~ shift with the handover; read/check the chart at the end of the bed; take the patient's
 temperature/pulse; wash/disinfect ~ hands; change/replace the bandage/dressing; give/hand_out the morning
 medicine/tablets; listen to the old man's chest/breathing; order/request an x-ray/scan/blood_test; draw/pull
 the curtain around the bed; ask about the pain/fever/cough/allergy; explain the operation/treatment/results;
 sign the consent/discharge form; wheel the patient down to surgery; wait for news outside the operating room;
 bring/pour a glass of water; straighten/plump the pillows; adjust/check the drip/monitor; write/note down the
 dose/symptoms; phone the family/laboratory; clean/stitch the wound; comfort/reassure the parents; sit with
 the boy until he fell asleep; dim the lights on the ward; fill in the report/records; go home to sleep
is: a monitor beeped/blinked beside the bed; the ward was quiet/full; the fever had gone down; a trolley
 rattled down the corridor; the test results were not back yet; visiting hours were almost over; someone was
 coughing behind the curtain; the waiting room was crowded; flowers stood on every windowsill; the ambulance
 was already on its way; the corridor smelled of disinfectant/soap; the patient in the next bed was snoring
say: how are you feeling this morning?; it may hurt a little; the operation went well; you should try to
 sleep; when can I go home?; take one of these after each meal; the doctor will see you soon; is it serious?
see: a bunch/vase of flowers/tulips; a pair of slippers; a blood pressure cuff; a box of
 gloves/tissues/bandages; a bowl of grapes; a wheelchair with a flat tire; a get-well card; a stethoscope; a
 paper cup; a row of plastic chairs; a syringe in its wrapper
# farm
at: on the farm; in the barn; in the far field; at the gate; in the stable; in the yard
m: the farmer; the farmhand; her grandfather; the vet
f: the farmer; the farmer's wife; the milkmaid; his grandmother
p: the farmers; the children; the farmhands
do: get up before the roosters; pull on ~ boots; milk the cows/goats; let the hens/geese out of the coop;
 collect/gather the eggs in a basket; feed the pigs/calves/lambs; muck out the stables/stalls; saddle/brush
 the mare/pony; mend/fix the fence along the lane; drive the tractor/herd down to the meadow; plow/sow/harrow
 the lower/north field; pick/dig the potatoes/beets/beans; cut/turn/rake the hay; stack the bales/straw in the
 barn; shear the sheep; count the flock; bottle-feed the weakest lamb; fill the trough with water; chase/shoo
 the crows/fox from the yard; repair/oil the harvester/pump; look/glance up at the sky/clouds; thresh/harvest
 the barley/wheat/oats before the rain; lock/close the gate behind the cattle; whistle for the dog; bring the
 herd in for the night
is: the rooster was crowing; mist lay over the pasture/fields; the cows were waiting at the gate; swallows
 darted in and out of the barn; mud sucked at every step; the hay was dry at last; the ground was still
 frozen/soft; a calf had been born in the night; the dog barked at the end of the lane; the well was low; the
 corn/wheat stood as high as a man's shoulder
say: it looks like rain before evening; the brown cow is limping; did you shut the gate?; we could use another
 pair of hands; there were only six eggs today; how is the harvest this year?; the fox has been here again;
 that field has never been any good
see: a pail of milk; a bale of hay/straw; a pitchfork; a sack of oats/seed/potatoes; a length of wire; a
 basket of eggs/plums/turnips; a pair of muddy boots; an old tractor/plow; a wheelbarrow; a nest of kittens; a
 horse blanket; a scythe
# railway
at: on the platform; in the carriage; at the station; in the signal box; by the ticket office
m: the conductor; the engine driver; the stationmaster; the man in the gray coat
f: the conductor; the ticket clerk; the woman with two suitcases; the traveler
p: the passengers; the commuters; the travelers; the railwaymen
do: look up at the departure board; buy/book a ticket to the coast/capital; drag/carry ~ suitcase/luggage up
 the stairs; run for the train; find/take a seat by the window; lift ~ bag onto the rack; wave/call to someone
 on the platform; blow the whistle; check/punch the tickets; unfold the newspaper/timetable; watch the
 fields/suburbs/hills go by; share a sandwich/compartment with a stranger/soldier; ask whether the seat was
 free; fall asleep against the window; miss the connection; change trains at the junction; walk along the
 corridor/carriage; order/drink a coffee in the dining car; look for ~ gloves/ticket under the seat; argue
 with the inspector about the fare; announce the next stop; step/climb down onto the platform; throw/pull the
 signal lever; help an old lady with her bags; leave the station by the side exit
is: the train was running late; the loudspeaker crackled; the whistle blew; the carriage was
 cold/warm/crowded; pigeons strutted along the platform; the train slowed/stopped in the middle of nowhere; a
 baby was crying two rows away; the express thundered through without stopping; the rails gleamed/shone in the
 rain; the station clock was five minutes slow; telegraph poles flicked past; the tunnel went on and on
say: is this seat taken?; tickets, please; the next train is canceled; we should be there by midnight; does
 this train stop at the border?; mind the gap; someone is meeting me at the other end; I always sit facing
 forward
see: a heavy suitcase/trunk; a paper cup of coffee; a lost glove/scarf; a folded/crumpled timetable; a thermos
 flask; a bicycle with a flat tire; a stack of newspapers; a vending machine; a bench; a return ticket; a
 cheap/dog-eared paperback
# library
at: in the library; in the reading room; between the shelves; at the front desk; in the archive
m: the librarian; the professor; the student
f: the librarian; the archivist; the student
p: the readers; the students; the librarians
do: switch/turn on the lamps; return/bring back a pile of books; stamp the date inside the cover; search the
 catalog/shelves for an old atlas/novel/biography; climb/fetch the ladder; run a finger along the spines;
 pull/take a dusty/heavy volume from the shelf; carry the books to the long table; turn the pages
 carefully/slowly; copy/note out a paragraph/quotation; read the footnotes/preface/index; fall asleep over a
 dictionary/history of the church; ask for the second volume/edition; unfold/trace a map of the river/coast;
 repair/mend a torn page; sort/shelve the returns/magazines; find/discover a letter/postcard between the
 pages; whisper to the reader at the next desk; pay the fine; renew ~ card; photograph the manuscript; take
 notes in pencil; recommend a detective story; read aloud to the children; put the book back where it
 belonged; lock the rare books in the cabinet
is: the reading room was silent; pages rustled; dust had settled on the top shelves; the lamps were being
 switched off; the heating hummed; somebody sneezed in the next aisle; the clock over the door ticked loudly;
 the ink had faded to brown; a cart squeaked between the shelves; the last reader was still there; the paper
 was thin and brittle; half the index was missing
say: please lower your voice; have you looked under poetry/travel/history?; it is overdue by a month; the
 library closes at eight; I have been looking for this for years; do you have anything about
 birds/ships/comets?; someone has torn out the last page; that one never leaves the building
see: a stack of novels/journals/encyclopedias; a card catalog; a magnifying glass; a leather-bound volume; a
 reading lamp; a box of index cards; a marble bust; a folded letter; a pencil stub; an illustrated
 encyclopedia; a librarian's stamp; a shelf of atlases
# garden
at: in the garden; by the greenhouse; under the pear tree; on the terrace; along the hedge
m: the gardener; the neighbor; her father
f: the gardener; the neighbor; his aunt; his mother
p: the gardeners; the neighbors; the twins
do: walk down the path in ~ slippers; fill the watering can; dig/turn over the flower/vegetable bed; rake the
 leaves/gravel; sow/plant the lettuce/peas/carrots/spinach in rows; prune/trim the roses/hedge; pull up the
 weeds/nettles/dandelions; tie the beans/tomatoes to their stakes; spread compost/straw around the
 strawberries; mow/water the lawn; pick the slugs/snails off the cabbages/lettuce; thin/transplant the
 seedlings; plant/bury the bulbs under the apple tree; cut some lavender/mint/rosemary/dahlias for the house;
 gather/pick the plums/cherries/raspberries/currants; watch a robin/blackbird/hedgehog on the lawn; sit/rest
 on the bench; wipe ~ forehead; clean the spade/shears; burn/pile_up the old branches; cover the beds against
 the frost; talk over the fence to the postman; sketch/plan a pond/rockery for the spring; boil the fruit into
 jam; store the apples/pumpkins in the cellar
is: the roses were in full bloom; bees hummed in the lavender; the soil was dry/warm/dark; the first tomatoes
 had turned red; a blackbird sang from the chimney; the grass was still wet with dew; snails had eaten the
 lettuce; the hedge needed cutting; apples were dropping from the tree; the frost had killed the dahlias; the
 shadows were growing longer; ivy covered the wall
say: they need more sun; it has not rained for two weeks; what do you call that flower?; you can never have
 too much compost; the birds got the cherries again; would you like some zucchini?; plant them deeper; nothing
 grows under that tree
see: a watering can; a pair of gardening gloves; a wheelbarrow full of leaves; a row of
 sunflowers/cabbages/leeks; a packet of seeds; a trowel; a rose bush; a tray of seedlings; a bird bath; a heap
 of compost; a clay pot of geraniums/basil; a garden hose
# mountains
at: on the ridge; in the hut; above the tree line; at the edge of the glacier; in the valley
m: the guide; the shepherd; the climber; the hut keeper
f: the guide; the climber; the geologist
p: the hikers; the climbers; the walkers; the rescuers
do: leave the hut/village before daybreak; fill ~ bottle at the spring; study/check the map/forecast; lace up
 ~ boots; follow the red marks/path up the slope; cross the stream/meadow on stepping stones; climb/scramble
 over the boulders; stop/pause to catch ~ breath; take off ~ jacket/sweater; eat some
 bread/cheese/chocolate/raisins on a rock; point at the summit/eagle/glacier; put on the crampons/helmet; rope
 up for the steep part; cut/kick steps in the ice; lose the path in the fog/snow; shout into the wind; look
 down at the lake/village; reach/see the summit/pass around noon; take a photograph/picture of the view; turn
 back because of the weather; slide/slip on the loose stones; bandage a blister/ankle; hurry down before the
 thunderstorm; hang ~ wet socks/clothes over the stove; write ~ name in the hut book; fall asleep to the sound
 of cowbells
is: the clouds were closing in; the air was thin/clear/cold; snow lay in the gullies; a marmot whistled;
 thunder rolled behind the peaks; the path zigzagged upward; stones rattled down the slope; the valley lay in
 shadow; an eagle circled high above; the hut was full/warm; meltwater ran across the trail; the summit had
 disappeared
say: how far is it to the top?; we should turn around now; watch where you put your feet; the weather changes
 quickly up here; I can see the hut; do you have any water left?; my legs will not carry me; there used to be
 a glacier here
see: a walking stick; a worn map; a coil of climbing rope; a tin of sardines; a compass and a whistle; a
 signpost; a pile of stones; an ice axe; a heavy rucksack; a patch of snow/edelweiss/heather; a bar of
 chocolate; a sleeping bag
# law
at: in the office; in court; in the meeting room; at the notary's
m: the lawyer; the judge; the witness; the client
f: the lawyer; the judge; the clerk; the widow
p: the lawyers; the heirs; the partners; the jurors
do: read the file/contract/statement from beginning to end; underline/mark the important passages; phone/call
 the client/court/insurance_company; draft/dictate a letter/reply/settlement; look up the statute/precedent;
 make two copies of the deed/will; arrange/postpone the meeting/hearing; greet/meet the opposing side in the
 corridor; stand up for the judge; swear/take the oath; question the witness/expert about the
 accident/invoice/lease; object to the question/evidence; whisper something to ~ client; adjust ~ glasses/tie;
 hand over the photographs/receipts; summarize/explain the facts of the case; ask for an adjournment;
 consider/reject the offer/argument; agree to a compromise; sign the last page; shake hands across the table;
 file an appeal; send the bill/invoice; put the papers back into ~ briefcase; close the case
is: the courtroom was half empty; the deadline was only a day away; the witness had changed her story; the
 clock on the wall had stopped; the judge was losing patience; nobody had read the small print; the contract
 ran to forty pages; a fan turned slowly on the ceiling; the signature was hard to read; the jury was still
 out; papers covered every chair
say: I would advise against it; where were you that evening?; it depends on what the contract says; objection;
 have you got that in writing?; my client denies everything; the inheritance must be divided; we can settle
 this without a trial
see: a stack of folders; a fountain pen; a sealed envelope; a copy of the will; a signed contract; a calendar
 full of appointments; a law book; a box of evidence; a letter from the insurance company; an unpaid bill; a
 row of binders
# laboratory
at: in the laboratory; at the bench; in the cold room; in the seminar room
m: the chemist; the professor; the technician; the postdoc
f: the chemist; the biologist; the doctoral student; the physicist
p: the researchers; the students; the technicians
do: put on ~ lab coat/goggles; label the samples/tubes/flasks; weigh/dissolve the powder/crystals/salt;
 calibrate the scale/sensor/spectrometer; adjust/focus the microscope/laser; pipette/drop the solution into
 the tubes; heat/stir/cool the mixture; set/start the timer/centrifuge; record/write_down the
 temperature/readings; repeat the experiment/measurement with a fresh sample; plot the data/results on a
 graph; check the calculation/control_group for errors; look at the cells/bacteria through the microscope;
 throw away the contaminated cultures; wash the glassware/beakers; freeze the remaining samples/tissue; order
 new chemicals/filters/electrodes; discuss the outlier/result with a colleague; question/test the hypothesis;
 change one variable at a time; read a paper about enzymes/proteins/crystals/neutrons; prepare a talk/poster;
 rewrite the abstract/conclusion; answer/send the reviewers; turn off the gas/vacuum pump
is: the centrifuge hummed/whirred; the solution had turned blue/cloudy/yellow; the numbers did not add up; the
 fume hood was humming; a red light blinked on the panel; the results looked too good to be true; the culture
 was growing; liquid nitrogen smoked/boiled in the flask; the printer was out of paper; the curve bent/rose
 sharply at the end; the grant was running out
say: that cannot be right; did you run a control?; let us repeat it tomorrow; the error bars are too large;
 what happens at higher pressure?; somebody used my buffer; we need a bigger sample; it works, but I do not
 know why
see: a rack of test tubes; a notebook full of figures; a petri dish; a bottle of ethanol/acid/distilled_water;
 a pair of safety goggles; a beaker; a broken thermometer; a tray of samples; a roll of tape; a graph on the
 wall; a microscope slide; a bunsen burner
# theatre
at: in the theater; on stage; in the wings; in the dressing room; in the front row
m: the director; the actor; the stagehand; the playwright
f: the actress; the director; the prompter; the costume designer
p: the actors; the dancers; the audience; the stagehands
do: arrive/come early for the rehearsal; learn/forget ~ lines; read/mark the script/scene; paint/build the
 scenery/set; try on the costume/wig; hem/sew the queen's dress; test the lights/microphone; hang the
 backdrop/curtain; warm up ~ voice; pace/walk up and down in the wings; put on ~ makeup; peer/look through a
 gap in the curtain; wait for ~ cue; step/walk into the spotlight; speak the opening lines; miss an entrance;
 improvise/invent a joke; drop/break the prop sword; sing the duet; kiss the hero; die in the third act;
 bow/curtsy to the audience; throw flowers on the stage; thank the musicians/crew; read the review in the
 morning paper
is: the lights went down; the curtain would not open; the audience laughed/held_its_breath/applauded; the
 orchestra was tuning up; the house was sold out; a spotlight wandered across the stage; someone coughed in
 the balcony; the set wobbled; the applause went on and on; the smell of paint and powder hung in the air; the
 understudy stood ready; the trapdoor creaked
say: five minutes to curtain; from the top, please; can they hear me in the back row?; I know that line by
 heart; where is my other shoe?; the play is too long; you were wonderful tonight; never whistle in a theater
see: a rack of costumes; a box of makeup; a stuffed crow; a plaster skull; a bouquet of roses; a script with
 many notes; a fake beard; a velvet curtain; a row of empty seats; a ladder against the backdrop; a powdered
 wig; a cardboard crown
# market
at: at the market; in the square; at the fish stall; under the awning; between the stalls
m: the greengrocer; the butcher; the old farmer; the cheese seller
f: the flower seller; the fishwife; the spice merchant; the shopper
p: the stallholders; the shoppers; the traders
do: put up the stall/awning at dawn; unload/unpack the crates/boxes; arrange/pile the apples/melons/tomatoes
 in a pyramid; sprinkle water on the lettuce/herbs; hang the sausages/hams on hooks; chalk up the prices; call
 out to the shoppers; squeeze/smell the melons/peaches/lemons; weigh a pound of cherries/grapes/onions; cut a
 wedge/slice of cheese; haggle/argue over the price of the carpet/rug; wrap the trout/flowers in newspaper;
 give/count out the change; slip an extra pear/fig into the bag; taste/sample an olive/almond; lose/find ~
 purse/shopping_list in the crowd; carry two heavy bags home; gossip/chat with the neighbor; buy a bunch of
 carnations/asparagus/coriander; sell the last strawberries/mushrooms/eggs cheaply; keep an eye on the
 pickpockets; shoo/chase the wasps/pigeons away; pack up the stall; sweep/hose the cobblestones; drive home
 with an empty van
is: the square was filling up; the awnings flapped in the wind; a street musician played the accordion; the
 fish lay shining on the ice; wasps crawled over the plums; the church bells struck eleven; everything smelled
 of cumin/fish/oranges; the best things were gone by nine; a child was crying for a balloon; prices had gone
 up again; pigeons picked at the crumbs
say: two for the price of one; are these local?; I picked them this morning; that is far too expensive;
 anything else?; try before you buy; half a pound will do; you will not find better anywhere
see: a crate of lemons/peaches/artichokes; a wheel of cheese; a string of garlic/onions/sausages; a bunch of
 radishes/beetroot; a tray of oysters; a sack of walnuts/chestnuts; a jar of pickles/mustard; a bucket of
 carnations; a pair of scales; a basket of mushrooms/figs; a roll of carpet
# tailor
at: in the tailor's shop; at the sewing machine; in front of the mirror; in the fitting room
m: the tailor; the groom; the customer
f: the seamstress; the bride; the dressmaker; the customer
p: the seamstresses; the bridesmaids; the sisters
do: unroll a bolt of cloth/silk/wool/tweed; take/write_down the customer's measurements; chalk the pattern on
 the fabric/cloth; cut out the sleeves/collar/lining; thread a needle/the_machine; pin/tack the pieces
 together; sew/stitch the seam/hem by hand; press/iron the pleats/collar; try on the jacket/gown/waistcoat;
 turn/stand in front of the mirror; let out/take in the waist; shorten the trousers/skirt/sleeves; sew on a
 button/ribbon; unpick/undo the crooked seam; choose/match the buttons/thread/lace; find the scissors/thimble
 under the fabric; prick ~ finger; hold the cloth up to the light; embroider a flower/initial on the cuff;
 darn the elbows; measure the veil; fold the dress in tissue paper; brush the lint from the coat; promise it
 for the end of the week; hang the suit/gown in the window
is: the sewing machine rattled; scraps of cloth covered the floor; pins glittered on the carpet; the iron
 hissed; the jacket was tight across the shoulders; the zipper had jammed; the wedding was only days away; the
 lining had torn; a moth had got into the wool; bolts of fabric reached up to the ceiling; the hem was uneven
say: stand up straight, please; a little shorter at the back; it fits you perfectly; when do you need it?; I
 have put on weight; breathe in; this silk is impossible to sew; do you prefer the blue or the gray?
see: a box of buttons/pins; a bolt of linen/velvet/corduroy; a pair of scissors; a spool of thread; a
 half-finished gown/waistcoat; a tape measure; a dressmaker's dummy; a basket of ribbons; an iron; a wedding
 veil; a heap of scraps; a pattern cut from paper
# post
at: at the post office; on the round; at the sorting table; at the counter
m: the postman; the clerk; the pensioner
f: the postwoman; the clerk; the lady from the corner house
p: the clerks; the letter carriers; the people in the line
do: empty the mailbox at the corner; sort/bundle the letters by street; weigh the parcel/package; lick/stick
 the stamps on the envelope; ask for a signature/receipt; stand/wait in line; fill in a customs form; send a
 postcard/telegram to ~ sister/cousin; tie the package with string; load the mailbags/bicycle; ride/cycle up
 the hill; push the letters/bills through the slot; knock/ring twice; avoid/pat the dog; leave/drop a note for
 the neighbor; deliver a registered letter/parcel; decipher/read the address/handwriting; open/tear the
 envelope with ~ thumb; read the letter/card twice; smile at the photograph; put/hide the letter in a drawer;
 write/begin a reply; forward the magazines/bills to the new address; hand in a lost wallet; finish/end the
 round
is: the line reached the door; the mail was late; letters kept falling out of the bag; the stamp had been put
 on upside down; the address had been smudged by the rain; the dog growled behind the gate; parcels were piled
 up to the ceiling; the scale was broken; the envelope had no sender; the mailbox was stuffed with flyers; a
 telephone rang in the back
say: is there anything for me?; that will not fit through the slot; sign here, please; it should arrive by the
 weekend; how much is it to send this abroad?; he bites; there is postage due on this one; nobody of that name
 lives here
see: a sheet of stamps; a brown parcel; a bundle of letters; a rubber stamp; a ball of string; a postcard from
 the seaside/mountains; a torn envelope; a mailbag; a stack of forms; a birthday card; a roll of brown paper;
 a magazine in plastic wrap
# garage
at: in the garage; under the car; at the gas station; in the pit; on the forecourt
m: the mechanic; the driver; the boss
f: the mechanic; the driver; the boss's daughter
p: the mechanics; the brothers; the truckers
do: jack up the car/truck/van; open the hood; listen to the engine/noise; drain/change the oil; replace/clean
 the spark plugs/air_filter; check the brakes/battery/tires; crawl/slide under the car; shine a flashlight at
 the exhaust/axle; loosen/tighten the bolts/nuts; hammer out the dent; weld/patch the rusty panel; order a new
 clutch/gearbox/radiator; wipe ~ hands on a rag; pump up the tires; top up the coolant; turn/try the ignition
 key; tow a stranded car/caravan; scrape the ice off the windshield; wash/wax the car; take the car for a test
 drive; shake ~ head over the bill/mileage; haggle about the price of the repair; fill the tank; lower the car
 to the floor; drive off in second gear
is: oil dripped/leaked onto the concrete; the engine would not start; the radio was on; the lift groaned; the
 exhaust was held on with wire; smoke came from under the hood; the battery was flat; the tires were worn
 smooth; the spare part had not arrived; the garage smelled of rubber and gasoline; one headlight was out; the
 engine purred like a cat
say: when did you last change the oil?; it could be the alternator; I would not drive it any farther; it will
 be cheaper to buy a new one; hand me the wrench; try it now; they do not make them like this anymore; do you
 hear that knocking?
see: a set of wrenches; a can of oil/antifreeze; a pile of tires; a spare wheel; a greasy rag; a jack; a
 dismantled gearbox; a fan belt; a hubcap; a box of spark plugs; a tow rope; a calendar from last year; a
 cracked windshield
# newspaper
at: in the newsroom; at the press conference; at the copy desk; in the print room
m: the editor; the reporter; the photographer; the intern
f: the editor; the reporter; the columnist; the proofreader
p: the reporters; the editors; the printers
do: read the overnight news/wires; pitch/suggest a story about the flood/strike/mayor; phone/call a source;
 drive out to the scene; interview/question the minister/neighbors/survivors; scribble the quotes/details in a
 notebook; photograph the crowd/ruins/candidate; check/verify the facts/spelling/figures; type/dictate the
 first paragraph/draft; rewrite/cut the headline/opening; argue over the front page; ask for a
 comment/statement; miss/meet the deadline; correct the typos/caption; shorten the article/column by a third;
 choose a picture for the cover; send the pages to the printer; start the presses; fold/bundle the first
 copies; print a correction; answer an angry letter; protect/meet an informant; read the paper over
 coffee/breakfast; pin the clipping to the wall; dig through the archive
is: telephones rang on every desk; the deadline was an hour away; the presses were rolling/rumbling; the rumor
 had spread through the town; nobody would comment; the headline did not fit; keyboards clattered; the ink was
 still wet; the mayor had refused to talk; the story had changed three times since lunch; coffee cups covered
 the desk; the coffee machine was broken again
say: who is your source?; we need it by six; that is not a headline; can you confirm that?; cut the last
 paragraph; off the record; the competition already has it; nobody reads past the first line
see: a stack of clippings; a tape recorder; a press card; a half-empty coffee cup; a bundle of newspapers; a
 typewriter ribbon; a camera; a wall of front pages; a box of old negatives; a reporter's notebook; a
 telephone directory; a pot of glue
# bees
at: at the hives; in the orchard; in the honey house; among the clover
m: the beekeeper; the orchard owner; the boy
f: the beekeeper; her granddaughter; the picker
p: the beekeepers; the pickers; the cousins
do: walk out to the hives before breakfast; light/fill the smoker; put on the veil/gloves; lift the lid off
 the hive; pull/draw out a frame/comb; look for the queen; brush the bees from the frame; check the brood/comb
 for mites/disease; add another box to the hive; catch/follow a swarm in the old pear tree; scrape off the
 wax; spin the honey out of the combs; strain the honey through a cloth; fill/label the jars; lick the honey
 from ~ fingers; pull out a sting/stinger; prune/graft the young trees; thin the blossoms/fruit; set/lean the
 ladders against the branches; pick the pears/apples/apricots/quinces into crates; press the juice/cider; sort
 out the bruised/wormy fruit; sell cider at the roadside; feed the bees with syrup; wrap the hives for the
 winter
is: the bees hummed/buzzed in the clover; the blossom was late; smoke drifted between the trees; the honey was
 dark and thick; a swarm hung from the branch; the lindens were flowering; wasps had found the press; the
 ladders creaked; the queen had not been seen for days; the branches bent under the fruit; a woodpecker
 hammered in the old tree
say: do not move too quickly; they can smell fear; how many hives do you have?; it will be a good year for
 honey; one sting never hurt anyone; the bees know it before we do; these are for cider; can you see the
 queen?
see: a jar of honey; a smoker; a veil and gloves; a basket of windfalls; a crate of quinces/pears; a block of
 wax; a long ladder; a wasp trap; a cider press; a stack of frames; a beeswax candle; a handcart
# river
at: on the river; on the bank; in the canoe; below the weir; under the bridge
m: the angler; the ferryman; the miller; her uncle
f: the angler; the ferryman's wife; the canoeist; his cousin
p: the anglers; the canoeists; the boys; the rowers
do: dig for worms; carry the canoe/rods down to the water; wade into the shallows/current; cast the line/fly
 upstream; sit/crouch among the reeds; watch the float/dragonflies; feel a tug on the line; reel in a
 trout/perch/pike/eel; slip the hook from its mouth; let the fish/trout go; untangle the line; paddle/drift
 around the bend; duck under the willows/branches; push off from the bank; steer between the rocks; shoot the
 rapids; capsize/get_stuck below the weir; bail out the water; wring out ~ shirt/socks; dry/warm & in the sun;
 skip/throw stones across the water; cook/grill the catch over a fire; swim to the other side; pole/row the
 ferry across; moor/tie the boat to a willow
is: the river was high after the rain; dragonflies hovered over the reeds; a heron stood motionless in the
 shallows; the current pulled at the paddle; the float bobbed and vanished; mosquitoes whined in the dusk;
 willows trailed their branches in the water; the mill wheel turned; ducks paddled past in single file; the
 bank was muddy/slippery; a fish jumped; the water was brown/clear/cold
say: they bite best at dusk; keep still; is it deep here?; you should have seen the one that got away; lean
 the other way; there is a waterfall after the next bend; my feet are freezing; throw that one back
see: a fishing rod; a tin of worms; a landing net; a pair of waders; a punctured canoe; a wet rope; a picnic
 basket; a jar of minnows; a rotten log; a heron's feather; a bank of reeds/nettles/irises; a flat-bottomed
 boat
# museum
at: in the museum; in the main hall; in the storeroom; in front of the painting; at the dig
m: the curator; the guard; the archaeologist; the collector
f: the curator; the restorer; the archaeologist; the guide
p: the visitors; the archaeologists; the guards; the schoolchildren
do: open the shutters/gallery; dust/unlock the display cases; hang/straighten a portrait/landscape; lead/guide
 a group through the hall/wing; point out the brushwork/signature; explain how the mummies/armor/fossils came
 to the museum; warn the children not to touch; bend over a coin/skull/scroll; clean the canvas with cotton
 swabs; remove the old varnish/overpainting; identify/catalog the pottery/bones/beads; brush the soil from a
 mosaic/jawbone; sift the sand/earth; photograph the trench/tomb; wrap the shards/statue in foam; number the
 crates/fragments; compare the inscription with an older copy; date the layer/timber; suspect a forgery; lend
 the masterpiece to another museum; buy postcards in the gift shop; rest/sit on the bench in front of the
 altarpiece; follow the arrows to the dinosaurs; doze by the radiator; set the alarm/humidity
is: footsteps echoed on the marble; the skeleton of a whale hung from the ceiling; a school class shuffled
 past; the label was in Latin; the trench had filled with water; the vase had been broken and mended; the
 gallery was about to close; the portrait seemed to be watching; the paint was flaking; tourists crowded
 around the smallest picture; the alarm had gone off twice
say: please do not touch; is it real?; it is older than the pyramids; who was she?; the frame alone is worth a
 fortune; we found it in three hundred pieces; the brown parts were added later; where are the dinosaurs?
see: a case of butterflies/medals; a suit of armor; a marble torso; a cracked amphora; a tray of
 arrowheads/coins; a stuffed bear/albatross; a clay tablet; a portrait of a merchant/duchess; a mammoth tooth;
 a guard's chair; a bronze figure; a trowel and brush
# hotel
at: at the hotel; at the reception desk; in the lobby; on the third floor; on the terrace
m: the porter; the bellboy; the hotel manager; the salesman
f: the receptionist; the chambermaid; the manager; the elderly guest
p: the guests; the honeymooners; the chambermaids; the tourists
do: check in under the wrong name; hand/slide the key across the desk; carry the luggage/trunks upstairs; ring
 for the elevator; show the guests/family to their room; draw the curtains; make/strip the beds; change/fold
 the sheets/towels; knock/tap on the door; order/bring breakfast in bed; complain about the
 noise/plumbing/draft; ask for another pillow/blanket; call/order a taxi; recommend a walk along the
 promenade; book a table for dinner; leave the key at the desk; take/ride the elevator to the top floor;
 vacuum the carpet in the corridor; find/return a forgotten earring/passport; sit in the lobby with a
 newspaper; write/send postcards on the terrace; pack ~ suitcase in a hurry; pay/settle the bill; tip the
 doorman; wave from the window of the taxi
is: the lobby was empty/deserted; the elevator was stuck/slow; a piano tinkled in the bar; the bed sagged in
 the middle; the carpet swallowed every sound; the view was of a parking lot; the hot water had run out;
 someone was arguing next door; the revolving door turned; suitcases stood in a row; the minibar hummed; the
 season was almost over
say: do you have a reservation?; breakfast is from seven to ten; is there a room with a view?; the elevator is
 out of order; we were promised a balcony; enjoy your stay; do not disturb; I would like to be woken at six
see: a hotel bell; a bunch of keys; a tray with breakfast; a pile of fresh towels; a minibar; a bowl of
 sweets; a chandelier; a pot of orchids; a brochure about the caves/cathedral; a deep armchair; a bathrobe; a
 trolley of luggage
# music
at: in the rehearsal room; at the piano; in the choir loft; in the concert hall
m: the conductor; the pianist; the cellist; the tenor
f: the violinist; the soprano; the music teacher; the organist
p: the musicians; the singers; the choir; the violinists
do: tune the strings/piano; set up the music stands; rosin ~ bow; play/practice a scale; count out/tap the
 rhythm with ~ foot; turn over the page; hum/whistle the melody; sight-read the sonata/waltz/fugue;
 repeat/play the slow movement from the beginning; miss/skip a bar; lift/raise ~ baton; shout at the
 trombones/tenors; accompany/follow the soloist; sing the alto/bass part; hold the last note; close/shut ~
 eyes; break a string; write the fingering above the notes; copy out the parts; transpose the song into a
 lower key; improvise/compose a cadenza/lullaby; learn the concerto by heart; listen to a recording of the
 symphony/opera; argue about the tempo; bow to the audience
is: the piano was out of tune; the choir held its breath; the last chord faded away; the violins came in too
 early; the hall was half full; the metronome ticked on the piano; somebody was practicing scales upstairs;
 the acoustics were terrible/wonderful; sheet music lay all over the floor; the trumpets drowned out everyone
 else; rain drummed on the roof
say: once more from the second verse; you are dragging; who is flat?; it should sound like a question; softer,
 please; can we take it a little slower?; breathe before the long phrase; that was almost music
see: a music stand; a violin bow; a stack of sheet music; a metronome; a broken string; a pair of cymbals; a
 hymn book; a conductor's baton; a row of organ pipes; a tuning fork; a dusty piano; a pile of scores
# building
at: on the building site; on the scaffolding; in the half-built house; on the roof; in the trench
m: the bricklayer; the foreman; the architect; the roofer; the plumber
f: the architect; the electrician; the engineer; the house owner
p: the builders; the roofers; the workmen; the plasterers
do: unroll/study the blueprints; mark out/dig the foundations; pour/mix the concrete/cement; put up the
 scaffolding; lay the first bricks/tiles; check the wall with a level; hoist/lift a beam/girder into place;
 nail down the rafters/floorboards; carry the bricks/slates up the ladder; saw through a joist/pipe;
 plaster/paint the walls/ceiling; bend/cut the lead pipes; pull the cables/wires through the wall; fit/install
 the windows/sink/boiler; knock down the old wall/chimney; patch/seal the leak; climb/swing onto the roof;
 cover the timber with a tarpaulin; eat ~ sandwich on an upturned bucket; argue with the inspector about the
 permit; wait for the crane/truck; turn off the water at the main; ring for the plumber; tidy up the rubble;
 hand over the keys
is: the cement mixer was turning; the scaffolding creaked/shook; dust settled on everything; the walls were up
 to the first floor; the crane swung slowly overhead; water seeped into the trench; the tiles had not been
 delivered; somebody was drilling upstairs; the plaster was still damp; the roof was open to the sky; the
 budget had been spent; rain had stopped the work
say: wear your helmet; that wall is not straight; how long will it take?; the pipes have to go in first; we
 found an old well under the cellar; pass me the trowel; who is paying for this?; it was not in the plan
see: a pallet of bricks; a bag of cement/plaster/gravel; a spirit level; a wheelbarrow; a pile of sand/rubble;
 a roll of cable/insulation; a bucket of paint/mortar; a hard hat; a drill; a length of pipe; a stack of
 tiles; a ladder; a crowbar
# vet
at: at the animal clinic; in the consulting room; at the shelter; in the kennels
m: the vet; the dog's owner; the zookeeper
f: the vet; the assistant; the breeder; the cat's owner
p: the vets; the keepers; the volunteers; the owners
do: call the next patient; lift the dog/spaniel/terrier onto the table; feel the cat's belly/paw; look into
 the puppy's ears/eyes/mouth; shave a patch of fur; give/prepare the injection/vaccine; hold the kitten/rabbit
 still; clip/trim the parrot's claws/wings; splint/bandage the broken leg; remove a thorn/tick/splinter; take
 a blood sample; weigh the tortoise/ferret/piglet; clean/disinfect the cages; scratch the mutt behind the
 ears; feed the hedgehogs/owls by hand; prescribe some drops/pills/ointment; calm/soothe the
 frightened/nervous horse; deliver the foal/calf; stroke the old hound until it slept; walk the strays in the
 park; find a home for the litter; hose down the kennels; mix/warm the milk for the orphans; throw/hide a ball
 for the collie; fill in the vaccination card
is: the dog was shaking/limping/whimpering; a parrot screeched in the waiting room; the cat had hidden under
 the cupboard; the puppies slept in a heap; fur drifted across the floor; the kennels were full; a rabbit
 thumped in its box; the wound was healing; the tail began to wag; the goat had eaten a glove; the phone had
 not stopped ringing
say: what has he eaten?; she will be up and about tomorrow; he does not bite; hold her tightly; how old is
 he?; no more sausages; she only needs rest; we thought we had lost her
see: a plastic collar; a bag of dog food; a leash; a cage of canaries; a bowl of kibble; a cat basket; a jar
 of treats; a box of kittens; a muzzle; a saddle blanket; a syringe; a bandaged paw
# pottery
at: in the studio; at the wheel; beside the kiln; by the easel; at the exhibition
m: the potter; the painter; the sculptor; the model
f: the potter; the painter; the glassblower; the art dealer
p: the artists; the potters; the students of the evening class
do: wedge/cut a lump of clay; wet ~ hands; center the clay on the wheel; pull up the sides of the
 bowl/jug/vase; trim the foot/rim; press the handle/spout into place; dip the cups/plates in glaze; stack/fill
 the kiln; wait for the kiln to cool; stretch/prime a canvas; squeeze/mix the ocher/blue/crimson on the
 palette; sketch/outline the figure/horizon in charcoal; step back from the easel/canvas; paint over/out the
 sky/background; clean the brushes in turpentine; narrow ~ eyes; chip/carve away the marble/stone; cast/polish
 the statue/medal; blow/spin the glass; frame the watercolor/etching; hang the pictures for the show; sign the
 canvas in the corner; sell the smallest drawing; smash a crooked pot; begin another portrait/still_life
is: the wheel spun/hummed; the clay was too wet/soft; the kiln was still hot; paint had dried on the palette;
 the north light was fading; the glaze had cracked/run; the model shivered on the stool; canvases leaned
 against the wall; red dots showed which pictures were sold; the studio smelled of turpentine; the bowl
 collapsed; a radio muttered in the corner
say: do not move your head; it needs more red; is it finished?; I saw that color once in a dream; the left eye
 is wrong; clay remembers everything; how much do you want for it?; leave it, it is good as it is
see: a lump of clay; a jar of brushes; a half-finished portrait; a bag of plaster; a tube of paint; a shelf of
 bowls/mugs; a box of charcoal/pastels; a stained apron; a wire and a sponge; a chipped teapot; a row of
 vases; a blank canvas
# observatory
at: at the observatory; under the dome; in the control room; on the hill
m: the astronomer; the night assistant; the visitor
f: the astronomer; the student; the engineer
p: the astronomers; the amateurs; the visitors
do: open the dome at dusk; point the telescope at a comet/galaxy/cluster; uncover/clean the mirror/lens; wait
 for the clouds to clear; guide/track the telescope by hand; measure the brightness/position of the star;
 photograph the eclipse/nebula/moon; find Saturn/Jupiter low in the south; compare the two plates/images;
 discover a smudge/dot near the edge of the picture; calculate/compute the orbit; name the
 craters/constellations; listen for a signal from the probe/satellite; reboot/restart the computer; pull ~
 coat tighter; drink ~ coffee from a thermos; rub ~ eyes; write the hour and the seeing in the logbook; show
 the rings to the children; explain gravity/parallax with an orange; look away from the screen; argue about
 dark matter; publish the results; close the dome at dawn; drive down the mountain with the lights off
is: the sky was clear/black/hazy; the dome turned with a groan; the stars flickered/trembled; the moon had
 set; the screens glowed in the dark; the comet was fainter than expected; a meteor flashed/streaked across
 the sky; clouds were coming up from the valley; the telescope hummed as it moved; the exposure took an hour;
 the mirror had to be cooled
say: that one is a planet; how far away is it?; the light left there before we were born; give your eyes ten
 minutes; is that a satellite?; we lost the whole night to clouds; look a little to the left; nobody knows
 what it is made of
see: a star chart; a logbook; a thermos of coffee; a spare lens; a dim lamp; a globe of Mars; a rack of
 computers; a pair of binoculars; a warm blanket; a photograph of the moon; an eyepiece; a planisphere
# lighthouse
at: in the lighthouse; on the island; on the cliff; at the top of the stairs; in the lamp room
m: the lighthouse keeper; the painter; the boatman; the boy
f: the keeper's wife; the ornithologist; the schoolteacher; the keeper's daughter
p: the islanders; the children of the island; the keepers
do: climb/count the steps to the lamp; trim the wick; polish/wipe the lens; light the lamp at sunset; wind the
 clockwork; sound the foghorn; note/write the wind/barometer in the log; scan/search the horizon with
 binoculars; row out to the supply boat; carry up the coal/oil/groceries; tar/whitewash the walls; patch the
 roof after the gale; gather/pick_up driftwood/shells/seaweed on the beach; ring/band the puffins/terns/gulls;
 count the nests on the cliff; rescue/revive a half-drowned sailor; repair the radio/generator; bake bread for
 the week; play cards/chess by the stove; teach the children to read; write a letter that would not leave for
 weeks; listen to the shipping forecast; signal to the passing ship/trawler; wrap & in a blanket; put out the
 lamp at dawn
is: the beam swept over the waves; the foghorn moaned; the sea broke over the rocks; the island was cut off;
 spray rattled against the glass; a ship's light showed on the horizon; the wind had not dropped for three
 days; seals lay on the sandbank; the puffins were back; the supply boat was overdue; the stairs were slippery
 with salt; the gale tore at the shutters
say: there is a ship too close in; the boat comes every second week; you get used to the silence; did you wind
 the clock?; the glass is falling; on a clear day you can see the mainland; no one sleeps in a wind like this;
 who would build a house here?
see: a signal lamp; a drum of oil; a coil of rope; a barometer; a shelf of tinned food; a box of flares; a
 knitted sweater; a whale bone; a log of the weather; a pair of oilskins; a goat on a tether; a gull's egg
# football
at: on the field; in the locker room; on the bench; in the stands; on the touchline
m: the coach; the goalkeeper; the captain; the referee
f: the coach; the striker; the captain; the physiotherapist
p: the players; the fans; the reserves; the defenders
do: lace up ~ boots; jog/run around the field; stretch ~ hamstrings/calves; hand out the shirts/bibs;
 explain/draw the tactics on a board; win/lose the coin toss; pass the ball to the left/wing; dribble past the
 defender/fullback; shoot/aim from outside the box; save/block the penalty; head the ball over the bar;
 slide/fall in the mud; twist ~ ankle/knee; ask to be substituted; shout/yell at the referee; blow for a foul;
 take the corner/free_kick; score from close range; hug/embrace the goalkeeper; argue over the offside; spray
 the bruise; drink from the water bottle; wave to the crowd/parents; pack the kit/cones; limp/walk off the
 field
is: the crowd roared/groaned/chanted; the score was level; the whistle blew for halftime; the field was
 muddy/frozen; the ball hit the post; there were ten minutes to go; scarves waved in the stands; the
 floodlights came on; the goalkeeper was off his line; the rain turned the center circle into a puddle; the
 bus was waiting; nobody could remember the last win
say: pass it; keep your shape; what was the score?; that was never a penalty; warm up, you are going on; we
 deserved to win; where was the defense?; next year will be different
see: a pair of muddy boots; a whistle; a bag of balls; a first aid kit; a muddy shirt; a trophy cabinet; a
 stack of cones; a corner flag; a bottle of water; a team photograph; a scarf in the club colors; a bucket of
 oranges
# council
at: in the town hall; in the council chamber; at the mayor's office; on the village green
m: the mayor; the treasurer; the town clerk; the retired colonel
f: the mayor; the councilor; the secretary; the shopkeeper
p: the councilors; the villagers; the residents; the committee
do: open/chair the meeting; read/approve the minutes; propose/oppose a tax/bypass/playground; second the
 motion; ask/vote for more money for the school/bridge/library; present/explain the budget; point to the
 map/chart; bang/tap on the table; interrupt/answer the speaker; quote an old law/charter; promise to look
 into the drains/streetlights; collect/sign the petition; form a subcommittee; count the votes/hands; abstain
 from the vote; break the tie; shake hands with the opposition; cut the ribbon; unveil a plaque/fountain;
 plant a tree/linden in the square; hang up the posters/flags; postpone/adjourn the decision until spring;
 knock on every door in the street; leave/walk_out before the vote; lock up the hall
is: the hall was packed/stuffy; the debate dragged on; the microphone squealed; no one could hear the back
 row; the bridge had been closed for months; the vote was too close to call; half the council was asleep; the
 petition had hundreds of signatures; the coffee had run out; the old linden had to come down; tempers were
 rising; the budget showed a hole
say: I move that we adjourn; who will pay for it?; that was promised ten years ago; all those in favor?; the
 drains come first; with respect, that is nonsense; order, please; what does the law say?
see: a pitcher of water; a list of speakers; a stack of leaflets; a ballot box; a map of the town; a mayor's
 chain; a petition; a row of folding chairs; a flag; a notice board; a model of the new bridge; a microphone
# wedding
at: at the wedding; in the church; in the tent; on the dance floor; at the long table
m: the groom; the best man; the bride's father; the priest
f: the bride; the maid of honor; the groom's mother; the aunt
p: the guests; the newlyweds; the musicians; the bridesmaids
do: decorate/sweep the church; iron/button the dress/shirt; tie ~ tie/sash; pin a flower to ~ lapel;
 lose/forget the rings; walk slowly down the aisle; wipe away a tear; exchange the vows/rings; kiss the
 bride/groom; throw rice/petals at the couple; pose for the photographer; unwrap/admire the presents;
 cut/slice the cake; pour/spill the champagne; give/make a speech; tell an embarrassing story; raise/clink the
 glasses; dance/waltz with ~ grandmother/uncle; take off ~ shoes; catch the bouquet; sing/request an old song;
 comfort the youngest bridesmaid; slip out into the garden; wave goodbye to the car; blow out the candles
is: the organ began to play; the church was cool/full; the band struck up a waltz; children were chasing each
 other under the tables; the bride was late; the champagne was warm; confetti stuck to everything; the tent
 glowed in the dusk; the best man had lost his notes; the cake leaned to one side; everyone was crying or
 laughing; the dancing went on until morning
say: you look beautiful; who has the rings?; how did you two meet?; I never thought I would see the day; could I
 have this dance?; try the cake; it rained at our wedding, too
see: a bouquet of lilies; a wedding cake; a bottle of champagne; a pile of presents; a veil; a bow tie; a
 guest book; a string of lanterns; an accordion; a tray of glasses; a bag of rice; a table of desserts; a
 child's shoe
# moving
at: in the new apartment; on the stairs; in the attic; in the empty living room; in the cellar
m: her husband; the landlord; the mover; the neighbor from downstairs
f: his wife; the landlady; the tenant; the daughter
p: the movers; the new tenants; the neighbors; the roommates
do: tape up the boxes/cartons; wrap the glasses/plates in newspaper; sort/go through the closet/drawers; throw
 away the broken toys/chairs; find/discover an old diary/photograph in the attic; carry the sofa/mattress down
 the stairs; scratch the banister/piano; squeeze/push the wardrobe through the door; measure/pace out the
 rooms; turn on the heating/water; scrub/mop the floors; peel off the wallpaper; paint/roll the
 ceiling/hallway; hang the curtains/pictures; screw together the bed/shelves; unpack the books/china; look for
 the can opener/lightbulbs; plug in the refrigerator/lamp; introduce & to the neighbors; eat pizza/soup on the
 floor; sign the lease/inventory; stick ~ name on the doorbell; listen to the strange/new noises; sleep on a
 mattress; hand back the old keys
is: the rooms echoed; boxes were stacked up to the ceiling; the elevator was out of order; the wallpaper was
 peeling; the radiator leaked; pale squares showed where pictures had hung; the sofa was stuck on the landing;
 the keys did not fit; a pipe gurgled in the wall; the neighbors were having a party; dust lay on the
 windowsills; the truck was double-parked
say: where does this go?; be careful with that one; I thought you had the keys; we have too many books; it
 gets the sun in the evening; whose idea was this?; the kitchen is in the last box; it already feels like home
see: a cardboard box; a rolled-up carpet; a lampshade; a toolbox; a bundle of letters; a folding bed; a spotty
 mirror; a box of records/toys/photographs; a mattress; an album; a mop and bucket; a tin of paint; a rocking
 horse
# flood
at: on the bridge; in the flooded street; on the dike; in the gymnasium; at the window
m: the fireman; the neighbor; the old man; the weatherman
f: the firefighter; the neighbor; the meteorologist; the shopkeeper
p: the firemen; the volunteers; the neighbors; the families
do: listen to the warning/forecast on the radio; board up the windows; fill/stack the sandbags; carry the
 carpets/furniture upstairs; fetch candles/batteries from the cellar; fill the bathtub with drinking water;
 look/stare out at the rising water/river; wade through the street in rubber boots; start/fix the pump; row
 from house to house; rescue/lift a cat/toddler from a roof/windowsill; rope & to a railing; hand out
 blankets/soup; call/shout the names of the missing; light a candle/lantern; tell the children a story;
 reinforce/walk along the dike; wait/pray for the rain to stop; shovel out the mud/silt; hang the wet
 clothes/blankets on a line; dry the photographs page by page; throw out the ruined mattresses/carpets; mark
 the height of the water on the wall; thank the volunteers; sweep/hose the mud into the gutter
is: rain lashed against the windows; the river had burst its banks; lightning lit up the rooftops; the power
 had gone out; the water was still rising/falling; a tree had come down across the road; sirens wailed/howled
 in the distance; the cellar was full of water; hail drummed on the cars; the wind ripped tiles from the
 roofs; mud covered everything; the bridge was closed
say: is everyone out of the house?; it has never been this high; the dike will hold; we need more sandbags;
 did you see my cat?; stay away from the cables; it will be over by morning; everything in the cellar is gone
see: a sandbag; a rubber boat; a flashlight; a pile of wet carpets; a battery radio; a fallen tree; a fire
 truck; a box of candles; a camp bed; a floating garbage can; a muddy doll; a tarpaulin; an emergency
 generator
# snow
at: on the frozen lake; in the snow; in the ski hut; by the fire; at the top of the slope
m: the skier; the boy next door; the snowplow driver; the grandfather
f: the skier; the little girl; the ski instructor; the grandmother
p: the children; the skaters; the skiers; the whole family
do: look out at the white street/garden; shovel the driveway/steps; scatter salt/ashes on the sidewalk; pull
 on ~ mittens/hat/boots; drag the sled up the hill; wax the skis; race/slide down the slope; throw/roll a
 snowball; build a snowman/igloo; stick a carrot in its face; skate/glide across the lake; test the ice with a
 stick; fall/tumble into a drift; lose a mitten/ski; stamp ~ feet; breathe on the frozen window/lock; break
 off an icicle; follow the tracks of a hare/deer/fox; hang out seeds/suet for the birds; chop some
 wood/logs/kindling; light/feed the fire/stove; warm ~ hands around a mug; drink hot chocolate; roast
 chestnuts/apples; knit a scarf/sock by the fire
is: snow was falling in large flakes; the lake had frozen over; icicles hung from the gutter; the road was
 blocked; the fire crackled; every branch was white with frost; the snow squeaked underfoot; the wind piled
 drifts against the door; the light turned blue in the afternoon; the school was closed; breath hung in the
 air like smoke; the plow had not come yet
say: can we go out now?; close the door, it is freezing; the ice is thick enough; who threw that?; my toes are
 numb; it never snows at the right time; put another log on; listen, how quiet it is
see: a pair of skis; a woolen hat; a snow shovel; a sled; a wet mitten; a mug of cocoa; a basket of logs; a
 pair of skates; a frozen puddle; a ball of yarn; a steaming kettle; a fur-lined coat; a box of matches
# pharmacy
at: in the pharmacy; at the counter; at the dentist's; in the waiting room; behind the prescription desk
m: the pharmacist; the dentist; the patient; the optician
f: the pharmacist; the dentist; the dental nurse; the young mother
p: the customers; the patients; the assistants
do: read/decipher the prescription; count out the tablets/capsules; grind/crush the powder in a mortar; look
 for the drops/ointment on the top shelf; warn about the side effects; recommend/sell some syrup for the
 cough/throat; weigh the baby; label the bottle; ring up the lozenges/plasters; ask about ~
 toothache/insurance; leaf through a magazine; open ~ mouth wide; examine/probe the molar/gum; give/dread the
 anesthetic; drill/fill the cavity; pull/extract the wisdom tooth; rinse and *spit; polish the crown; fit the
 braces/dentures; hold ~ cheek; make another appointment; read the smallest letters on the chart; try on the
 frames; adjust/clean the glasses; step out into the fresh air
is: the drill whined; a small boy was holding his cheek; the shelves were full of little drawers; the
 prescription was illegible; the waiting room smelled of peppermint/cloves; the lamp shone straight down; the
 patient tried not to swallow; an aquarium bubbled in the corner; half the town had a cold; the green cross
 flickered above the door; the tooth had to come out
say: does this hurt?; three times a day with water; have you been flossing?; you may feel a little pressure;
 it is only a cold; which is better, this or that?; you will not be able to chew for an hour; do you have
 something for hay fever?
see: a bottle of cough syrup; a box of plasters; a tube of ointment; a pair of tweezers; a plaster model of a
 jaw; a bag of herbal tea; a set of weights; a toothbrush; a fish tank; a tin of lozenges; an eye chart; a
 hot-water bottle
# vineyard
at: in the vineyard; in the wine cellar; on the slope; at the press; in the distillery
m: the winemaker; the cooper; the taster; the distiller
f: the winemaker; the oenologist; the picker; the innkeeper
p: the pickers; the vintners; the merchants
do: prune/tie_up the vines; hoe/weed between the rows; spray the leaves against mildew; taste/squeeze a grape;
 wait for the fog to lift; fill/carry a basket on ~ back; snip/cut the bunches/grapes; empty the hods/buckets
 into the cart; tread/press the grapes; skim the foam from the vat; check the sugar/acidity; rinse/roll the
 barrels; stir the lees; draw off a glass/sample; hold the wine up to the candle; sniff/swirl the glass; spit
 into the sawdust; blend two vintages; bottle/cork the riesling/cider; glue/print the labels; turn the
 bottles/champagne by hand; haggle with the merchant; drink to the harvest; close the cellar door; light
 fires/candles against the late frost
is: the grapes were ripe/sour/frozen; the must was fermenting; starlings wheeled above the slope; the cellar
 was cool and dark; cobwebs hung from the barrels; the press creaked; the corks would not hold; the leaves had
 turned yellow; the whole village smelled of wine; wasps crept into the baskets; the casks had been sealed; a
 late frost was forecast
say: this one needs another year; it tastes of blackberries/plums/smoke; the summer was too wet; can you smell
 the oak?; to the harvest; the old vines give the best wine; was it the frost?; not with fish, please
see: a barrel of wine; a basket of grapes; a corkscrew; a row of bottles; a cobwebbed demijohn; a pair of
 pruning shears; a tasting glass; a vat; a candle; a plate of cheese and walnuts; a funnel; a harvest cart
# swimming
at: at the pool; on the beach; at the edge of the water; on the diving board; in the dunes
m: the lifeguard; the swimming teacher; the ice-cream man; the surfer
f: the lifeguard; the swimmer; the diver; the nanny
p: the swimmers; the children; the bathers; the surfers
do: spread out/shake the towels; rub sunscreen/lotion on ~ shoulders/nose; put up the umbrella/windbreak; dip
 ~ toes in the water; put on ~ goggles/cap; jump/dive from the side; swim twenty laps/lengths; float on ~
 back; splash ~ brother/sister; hold ~ breath under water; swallow a mouthful of water; teach the little ones
 to swim; blow the whistle; run/race into the waves; build/dig a sandcastle/moat; collect/find
 shells/starfish/pebbles; bury ~ uncle's feet in the sand; fly a kite; ride/paddle out on a surfboard; chase a
 beach ball; buy an ice cream/lemonade; pull a crab/jellyfish from the bucket; rinse off the salt/sand; shake
 the sand from ~ shoes; fold up the deck chairs
is: the water was warmer/colder than expected; the sun beat down on the sand; chlorine stung the eyes; the
 waves were getting higher; the warning flag was flying; a kite tugged at its string; the ice cream was
 melting; the diving board trembled; gulls fought over the crusts; the tide had taken the sandcastle; the
 changing rooms were flooded; salt dried on the skin
say: do not swim past the buoys; is it cold?; watch me; no running by the pool; you have sand in your hair;
 can I have an ice cream?; the tide is coming in; just five more minutes
see: a striped towel; a bucket and spade; a deck chair; a pair of flippers; a beach ball; a bottle of
 sunscreen; a picnic blanket; a cooler of lemonade; a starfish; a lost sandal; a straw hat; an inflatable
 crocodile; a snorkel
# airport
at: at the airport; at the gate; in the cockpit; in the cabin; at customs
m: the pilot; the steward; the customs officer; the businessman
f: the pilot; the flight attendant; the security guard; the student
p: the passengers; the pilots; the tourists; the crew
do: check in ~ bags; search ~ pockets for the boarding pass; take off ~ belt/shoes; empty ~ pockets into a
 tray; buy perfume/chocolate in the duty-free shop; wait/doze at the gate; board the plane/jet; stow ~ jacket
 in the locker; fasten ~ seat belt; grip the armrests; read the safety card; taxi to the runway; scan/check
 the instruments; radio the tower; level off above the clouds; serve/bring the drinks/trays; refuse/eat the
 lukewarm pasta; watch the wing/sunrise; fill in the landing card; sleep through the film; sit through the
 turbulence; descend through the clouds; land in a crosswind; queue at passport control; wait at the carousel;
 declare a bottle of brandy; hug/greet ~ parents at the barrier
is: the flight was delayed/boarding; the engines roared; the seat-belt sign came on; the carousel went round
 and round; the city shrank to a model; ice had formed on the wings; the runway lights blurred past; a
 suitcase had burst open; the line at security did not move; the film flickered on a small screen; the captain
 apologized over the loudspeaker; the clouds lay below like snow
say: window or aisle?; did you pack it yourself?; final call for the night flight; I hate takeoffs; anything
 to declare?; chicken or pasta?; we are next in line for takeoff; my bag is not here
see: a boarding pass; a passport; a neck pillow; a trolley; a small bottle of gin; a tray of food; a duty-free
 bag; a headset; a lost teddy bear; a suitcase with a red ribbon; a life vest; a row of plastic seats
# forest
at: in the forest; in the clearing; at the edge of the woods; by the stream; in the hide
m: the forester; the ranger; the hunter; the woodcutter
f: the ranger; the botanist; the forester's daughter; the mushroom picker
p: the foresters; the scouts; the campers; the loggers
do: follow the deer path; mark the diseased trees/spruces; fell/saw an old beech/spruce; measure the girth of
 the oak; load the logs/trunks; plant the saplings/seedlings; clear the undergrowth/brambles; kneel/crouch
 beside a track/burrow; lie/wait in the hide; watch a stag/badger/lynx through binoculars; identify the
 moss/fern/orchid; pick/gather chanterelles/blueberries/acorns; cut a stick/branch from the hazel; sniff the
 air; set/check the camera trap; pitch/put_up the tent; collect firewood; strike a match; boil water in a pot;
 fry the sausages/bacon on a stick; sing by the campfire; hang the food from a branch; listen to an
 owl/nightingale; put out the fire; find ~ way back by moonlight/compass
is: the leaves rustled; a cuckoo called from far away; sunlight fell through the branches; needles covered the
 ground; a jay gave the alarm; the chainsaw howled; ferns grew as high as a man's waist; the stream had dried
 up; something moved in the undergrowth; the path forked; mushrooms had sprung up overnight; the embers
 glowed; resin stuck to everything
say: stay on the path; that one is poisonous; did you hear that?; the wolves are back; this tree was here
 before the town; quiet, there is a deer; are we lost?; it will burn better when it is dry
see: a pile of logs; a hollow stump; an anthill; a basket of mushrooms; a fox's den; an axe; a trail of
 feathers; a pine cone; a ring of stones; a camouflage jacket; a tin pot; a bed of moss; a woodpecker's hole;
 a pair of antlers
# bicycle
at: in the bicycle shop; on the road; at the roadside; on the hill; at the finish
m: the racer; the shop owner; the courier; her brother
f: the racer; the courier; the commuter; his sister
p: the riders; the cyclists; the couriers; the club
do: wheel ~ bicycle/bike out of the shed; pump up the tires; raise/lower the saddle; oil the chain; true the
 wheel; patch/find the puncture; tighten the spokes/brakes; ring the bell; swing a leg over the saddle;
 pedal/push up the hill; shift into a lower gear; overtake a bus/tractor; swerve around a pothole/dog; brake
 too late; scrape ~ knee/elbow; bend the fork; freewheel down to the village; ride in the slipstream; eat a
 banana in the saddle; deliver a package/folder; ignore/miss the red light; lock the bike to a lamppost;
 sprint for the line; wipe the mud from ~ face; fit/mount a new basket/dynamo/mudguard; walk the last mile
 home
is: the chain had come off; the road was steep/wet/empty; the wheels hummed; the wind came from ahead; the
 peloton rushed past; a truck thundered by; the brakes squealed; the back tire was flat; the descent took only
 minutes; the spokes flashed/glittered in the sun; the leader was already out of sight; gravel crunched
say: on your left; have you got a pump?; it is all downhill from here; the gears keep slipping; how many miles
 today?; use the front brake; a helmet would be a good idea; I will catch up with you
see: a puncture kit; a spare tube; a bicycle pump; a crooked wheel; a saddlebag; a helmet; a chain; a box of
 bearings; a reflector; a water bottle; a tandem; a child's tricycle; a rain cape
# fire
at: at the fire station; at the police station; in the smoke; on the corner; at the scene
m: the fire chief; the constable; the detective; the dispatcher
f: the firefighter; the detective; the inspector; the dispatcher
p: the firefighters; the officers; the bystanders; the detectives
do: answer the alarm/telephone; slide down the pole; jump into ~ boots; drive through the red lights;
 unroll/connect the hoses; put on ~ mask/helmet; break down the door; crawl through the smoke; carry an old
 man/a_child down the ladder; aim the jet at the roof; cordon off the street; take/note the names of the
 witnesses; search the rooms/ashes; photograph a footprint/broken_lock; dust the safe for fingerprints;
 question/suspect the brother-in-law/lodger; follow a man in a hat; lose the trail near the docks; compare the
 two statements; pin a photograph to the board; wait in a parked car; knock at the wrong door; arrest/release
 the burglar/suspect; fill in the forms; roll up the hoses; wash the soot from ~ face
is: smoke poured from the windows; the siren wailed; flames licked at the roof; the ladder swung around; water
 ran down the gutters; the alarm had been false; the lock had been forced; the neighbors had seen nothing;
 blue lights flickered on the walls; the trail had gone cold; the safe was empty; glass crunched underfoot
say: is anyone still inside?; where were you at nine?; stand back, please; it started in the kitchen; the door
 was already open; I did not see his face; keep the hose on the roof; nobody leaves this room
see: a set of fingerprints; a fire hose; a broken window; a muddy footprint; a helmet; a stretcher; a
 notebook; a bent crowbar; a charred beam; a bunch of skeleton keys; a police whistle; a pair of handcuffs; a
 torn glove
# dinner
at: at the dinner table; in the kitchen; in the living room; on the porch; in the hall
m: his father; the uncle; her brother; the grandfather
f: her mother; the aunt; his sister; the grandmother
p: the cousins; the parents; the twins; the relatives
do: set/lay the table; peel the potatoes/apples; stir the gravy/soup; look for the good tablecloth; open the
 door in ~ apron; hug/kiss everyone in turn; hang up the coats; tell/scold the children to wash their hands;
 say grace; carve the roast/turkey; pass the peas/beans/salad; ask for a second helping; spill the milk/gravy;
 kick ~ brother under the table; talk about the war/weather/election; interrupt/correct ~ father; change the
 subject; praise the dumplings/pudding; burn the cauliflower/crust; cut/serve the pie; make the coffee;
 wash/dry the dishes; deal/shuffle the cards; play/lose a game of dominoes/checkers; look through/at the old
 photographs; fall asleep in front of the television; carry the baby up to bed; wave from the porch
is: the soup was getting cold; everyone talked at once; the dog lay under the table; the grandfather clock
 struck seven; the good plates were on the table; the baby banged a spoon; nobody mentioned the letter; the
 pudding had sunk in the middle; the candles flickered; there was a long silence; the smell of roast meat came
 from the kitchen; an empty chair stood at the end
say: sit down, it is getting cold; pass the salt, please; who wants more?; elbows off the table; how was
 school?; you hardly ate anything; remember that summer at the lake?; let us not talk about it tonight
see: a dish of potatoes; a jug of milk/water; a roast; a plate of cookies; a pot of coffee/tea; a gravy boat;
 a bowl of cranberries; a high chair; a deck of cards; a photograph album; a casserole; a pile of dishes; a
 fruit cake
# bank
at: at the bank; at the counter; in the vault; in the board room; at the trading desk
m: the teller; the bank manager; the accountant; the investor
f: the teller; the accountant; the auditor; the shop owner
p: the clerks; the auditors; the investors; the shareholders
do: open the vault; count/bundle the notes; cash/sign a check; withdraw/deposit the money/savings; ask for a
 loan/mortgage; fill in the application; study/compare the interest rates; add up/check the columns; find a
 mistake/gap in the accounts; balance the books/ledger; audit the branch; raise/lower the credit limit;
 buy/sell the shares/bonds; watch/follow the prices fall; panic in the afternoon; calm/call the clients; print
 the statements; explain the fees/risk; pay off/back the debt; invest in a brewery/cinema; insure the
 warehouse; refuse the loan; stamp the form; sharpen a pencil; lock the cash drawer
is: the line moved slowly; the prices were falling; the computer was down; the figures did not match; the
 vault door swung shut; the market had closed; coins rattled in the machine; interest rates were rising; the
 account was overdrawn; the ledger lay open; the security camera turned; rumors were running through the
 building
say: how would you like it?; it is a safe investment; when is the first payment due?; there must be a mistake;
 we can offer you better terms; the numbers speak for themselves; can I see some identification?; money does
 not sleep
see: a stack of banknotes; a roll of coins; a ledger; a calculator; a check book; a safe; a pen on a chain; a
 savings book; a pile of receipts; an annual report; a leather chair; a deposit slip; a potted palm
# cafe
at: in the cafe; at the next table; by the window; on the sidewalk; at the bar
m: the barista; the poet; the student; the old man with the hat
f: the waitress; the poet; the translator; the woman in the raincoat
p: the regulars; the chess players; the students; the two friends
do: grind the beans; froth/steam the milk; order an espresso/tea/croissant; choose the table by the window;
 stir two spoons of sugar into ~ cup; open ~ notebook/laptop; gaze/stare out at the street; write/translate a
 few lines; cross out the last sentence; chew on ~ pencil; eavesdrop on the couple at the next table; pretend
 to read; move a pawn/bishop; lose ~ queen; check ~ phone/watch; wipe the table/crumbs; light/stub_out a
 cigarette; apologize for being late; kiss ~ friend on both cheeks; confess/admit that it was over; laugh out
 loud; burst into tears; ask for the bill/newspaper; leave a few coins on the saucer; button ~ coat; walk out
 into the drizzle
is: the espresso machine hissed; the coffee was strong/bitter/cold; rain streaked the window; cups clinked;
 the regulars argued about politics; someone had left an umbrella; jazz played quietly; the chairs were being
 put on the tables; the street was shining/busy/empty; steam fogged the glass; a dog slept by the door; the
 foam had collapsed
say: the usual?; is anyone sitting here?; I have something to tell you; I almost did not come; check; you have
 not changed at all; one more, please; it is only a first draft
see: a cup of espresso; a plate of croissants; a chess board; a sugar bowl; a newspaper on a stick; a wet
 umbrella; a slice of almond cake; a notebook; a saucer of coins; an ashtray; a glass of water; a blackboard
 with the menu
# computers
at: in the office; in the server room; at the help desk; in the meeting; on the fourth floor
m: the programmer; the manager; the technician; the intern
f: the programmer; the designer; the project leader; the tester
p: the developers; the testers; the customers; the engineers
do: log in/on; read through the error messages/emails; restart/unplug the server/router; trace the bug to a
 missing comma/file; write a test/script; fix/rewrite the function/parser; comment out a line; push the
 change/patch; break the build; roll back the release/update; back up the database/disk; rename a variable;
 delete the wrong folder/table; restore the backup; type the password twice; swear under ~ breath; sketch a
 diagram on the whiteboard; estimate the effort; postpone/cancel the demo/meeting; explain the outage to the
 customer; ask for more memory/time; update the documentation; close a dozen tabs; mute ~ microphone; approve
 the budget; go home at midnight
is: the server was down; the fans whirred; the cursor blinked; the tests were green/red again; the screen had
 frozen; the deadline had slipped; the customer was on the phone; cables snaked across the floor; the backup
 had never been tested; the progress bar crept forward; the log filled with warnings; the printer blinked
 orange
say: have you tried turning it off and on again?; it works on my machine; who changed this?; can you share
 your screen?; that is not a bug; it will be fixed in the next release; the data is gone; we never wrote that
 down
see: a tangle of cables; a spare keyboard; a cold pizza; a row of monitors; a rubber duck; a sticky note; a
 broken headset; a whiteboard full of arrows; a box of hard disks; a dusty modem; an energy drink; a coffee
 mug; a printer
# factory
at: in the factory; on the assembly line; at the loom; in the foundry; at the gate; in the canteen
m: the foreman; the welder; the shop steward; the weaver
f: the machinist; the weaver; the supervisor; the engineer
p: the workers; the weavers; the strikers; the night shift
do: clock in at six; put in ~ earplugs; start/oil the machine/loom/press; feed the sheet metal into the press;
 tighten bolt after bolt; solder the wires; inspect the gears/valves/fabric for flaws; pull/press the
 emergency lever/button; clear the jam; melt/pour the iron/steel; hammer/forge the red-hot bar; weld the
 seams; weave/dye the wool/cotton; pack the lamps/toys/bottles in crates; steer the forklift; load the
 pallets; eat ~ soup in the canteen; grumble about the overtime/wages; hand out leaflets at the gate; vote for
 a strike; negotiate a raise; train the newcomer; sweep up the metal filings; sign the time sheet; shower and
 *change ~ clothes
is: the conveyor belt jerked/stopped; sparks flew; the looms clattered; the furnace glowed; the siren
 announced the end of the shift; the order had to be finished by evening; the foreman was watching the clock;
 steam hissed from a valve; lint floated in the air; the management would not give in; the floor
 shook/trembled; forklifts beeped in the yard
say: wear your goggles; the belt is stuck again; how many today?; they want us to work Saturday; mind your
 fingers; this machine is older than I am; is the union going to help?; count me in
see: a box of gears; a bale of cotton; a pair of earplugs; a welding mask; a pallet of bottles; a time clock;
 a drum of dye; a spool of wire; a fire bucket; a lunch pail; a stack of crates; a greasy manual; a heap of
 scrap
# travel
at: in the desert; in the old town; at the border; in the guesthouse; at the bus station; in the temple
m: the driver; the guide; the backpacker; the border guard
f: the guide; the photographer; the backpacker; the tea seller
p: the travelers; the pilgrims; the drivers; the tourists
do: spread the map on the hood; ask the way in sign language; bargain for a rug/bracelet; change some money at
 the border; show ~ passport/visa; squeeze into the back of the bus; share ~ oranges/dates with the other
 passengers; get off at the wrong stop; climb the steps of the temple/minaret; take off ~ shoes at the door;
 photograph the ruins/camels/market; fill ~ canteen at the well; ride a mule/camel across the dunes; dig the
 jeep out of the sand; sleep under a mosquito net; drink mint tea with the host; taste the stew/flatbread;
 catch a fever; learn a few words of the language; get lost in the alleys; miss the last bus; hitch a ride on
 a truck; write in ~ diary; sew up ~ backpack; decide to stay another week; wave at the children by the road
is: the bus was packed; dust rose behind the truck; the heat shimmered above the road; a call to prayer
 drifted over the roofs; the border was closed; camels groaned in the courtyard; the alleys smelled of
 spices/smoke/leather; dogs slept in the shade; the road had been washed away; the stars seemed very close;
 goats blocked the road; the shutters were closed against the heat
say: how much for this one?; is it far?; you are welcome in my house; the road is bad after the rain; where do
 you come from?; there is always another bus; do not drink the water; sit, have some tea
see: a clay oven; a string of beads; a glass of tea; a battered guidebook; a straw mat; a bag of dates; a
 copper tray; a goatskin; a prayer rug; a water jar; a torn backpack; a basket of flatbread; a donkey cart
# castle
at: in the castle; in the great hall; on the battlements; in the cellar; in the stables; in the tower
m: the king; the knight; the cook; the page; the prisoner
f: the queen; the princess; the nurse; the weaver
p: the soldiers; the servants; the courtiers; the villagers
do: wake to the sound of bells; lower the drawbridge; saddle the gray mare/stallion; sharpen/draw ~ sword;
 kneel/bow before the throne; read the king's letter aloud; send a messenger to the duke/abbot; spread rushes
 on the floor; turn the spit; taste the wine for poison; fill the goblets; listen to the minstrel;
 plot/whisper behind a tapestry; feed the falcon/hounds; ride out to the hunt; patrol the walls; light the
 torches/beacon; raise the alarm; bar the gates; pour boiling water from the walls; escape through a
 tunnel/window; swim the moat; hide in the hay; swear loyalty/revenge; bury the treasure/dead; wear the crown
 for the first time
is: torches flared on the walls; the drawbridge creaked; ravens circled the tower; the enemy was camped across
 the river; the hall was full of smoke; hooves clattered in the courtyard; the moat had frozen; the old king
 was dying; no one dared to speak; the hounds bayed; the well had been poisoned; banners snapped in the wind
say: who goes there?; the king is dead; bring more wine; they will attack at dawn; is there another way out?;
 I swear it; we have bread for nine days; a letter for the queen
see: a suit of chain mail; a wax seal; a wolfhound; a bundle of arrows; a roasted boar; a heavy key; a
 tattered banner; a spinning wheel; a scroll; a leather glove for the falcon; a chest of coins; a jester's
 cap; a dagger in its sheath
# space
at: on board the station; in the airlock; on the surface; in the control room; in the capsule
m: the commander; the engineer; the flight director; the doctor
f: the commander; the pilot; the botanist; the mission specialist
p: the astronauts; the crew; the controllers
do: wake to the hum of the fans; float/drift down the corridor; strap & into the seat; check/seal the
 suit/helmet; run through the checklist; press/flip the switch; depressurize the airlock; open the outer
 hatch; clip on the tether; crawl/climb along the hull; replace a battery/panel/antenna; drop a wrench/bolt;
 look/gaze down at the clouds/oceans; talk to mission control; measure the radiation; water/harvest the
 lettuce; exercise on the treadmill; rehydrate the soup; record a message for ~ children; repair/clean the
 filters; dock with the supply ship; fire the thrusters; survive the reentry; collect dust/rocks/ice from the
 crater; plant a flag; splash down in the ocean
is: the Earth hung in the window; the oxygen was running low; a warning light flashed; the radio crackled with
 static; the shadow of the crater crept closer; crumbs floated past; the airlock hissed; the thrusters fired;
 the signal took minutes to arrive; frost had formed on the panels; the parachutes opened; everything was
 silent
say: we have a problem; how much air is left?; stand by; the hatch is jammed; you are breaking up; copy that;
 it looks so small from up here; what is that noise?
see: a tube of toothpaste; a floating pen; a water bubble; a spare glove; a solar panel; a bag of freeze-dried
 shrimp; a checklist; a tether; a rock sample; an oxygen tank; a sleeping bag on the wall; a child's drawing
"""

POOLS = """
# opener
at first; after a/another while; a moment/minute/little/few_minutes later; before long; by
 noon/midday/evening/nightfall; in the afternoon/evening/morning; later that day/morning/night/afternoon; at
 last; in the end; for once; as usual/always; the next/following morning/day; then; after that; once again;
 every now and then; at the same time; in the meantime; not long afterwards/after_that; from time to time; the
 day/night before; for a while/moment; all the same; on the way back/home; sooner or later; that
 evening/night/morning/afternoon; after lunch/breakfast/dinner/supper; just before noon/midnight/dark/dawn;
 towards/toward evening/midnight/morning; half an hour later; as soon as the rain stopped; when the work was
 done; little by little; still; even so; of course; to everyone's surprise/relief; without another word; as so
 often; first of all; one last time; with a sigh/smile/shrug/nod; for some reason; as far as anyone could
 tell; on most days; in spite of the cold/heat/noise/hour; by the end of the day/week/afternoon; on the first
 warm/cold day of the year; for the third day in a row; as if by accident; after some hesitation; more than
 once
# time
early in the morning; late in the afternoon/evening; on a cold/gray/rainy/bright/windy/quiet/foggy/mild
 morning/afternoon/evening in spring/autumn/winter; on the last/first day of the
 summer/holidays/season/month/week; a little after seven/eight/nine/four; just/shortly before
 noon/sunset/closing_time; one morning/evening/day in late summer/autumn/winter; that
 week/spring/summer/autumn/winter; on the hottest/coldest/longest/quietest day of the year; years/long ago; at
 the beginning/end of the week/month/season; soon after breakfast/lunch/sunrise; on a weekday like any other;
 at about half past six/seven/ten; one day; in those days/years; not so long ago
# state
it was still/already/almost dark; it was a little after seven/eight/nine; it was nearly/almost noon/midnight;
 it had rained/snowed all night/day; the day had begun slowly/badly/well; it was an ordinary/easy/unusual
 morning/day/afternoon; it was a busy/quiet/long/fine morning/day/afternoon/evening; there was not much time
 left; it had been a hard/long/strange week/winter/summer/month; nothing had changed in the last
 twenty/ten/thirty years; the sun had just come up/gone_down; it was one of those days when nothing went
 right; everyone was tired/late/nervous/cheerful that morning/day; it was the hottest/coldest/longest/quietest
 day of the year; the weather had turned/changed overnight; the telephone had been ringing/silent since
 breakfast/lunch; there was a lot/great_deal to do; nobody had slept well/much; the night had been
 short/quiet/cold; it was too early/late/hot for visitors; nobody was in a hurry
# tail
without a word; as carefully/quickly/quietly as ^ could; for the first/second/last time that
 day/week/morning/year/month; as if nothing had happened; before anyone could stop @; the way ~
 mother/father/grandmother/grandfather/teacher had taught @; without looking up/back; with great care; in no
 great hurry; while everyone else was still talking/asleep/at_lunch; because there was nobody else to do it;
 because ^ had promised to; though nobody had asked @ to; although it was already/getting late; as ^ did every
 morning/day/evening/week; when ^ thought no one was looking/watching; just in case; with a
 smile/sigh/frown/shrug; with cold/trembling/clumsy/tired/patient hands/fingers; in spite of the
 cold/heat/noise/rain; more slowly/carefully than usual/before; one more/last time; so that nobody would have
 to wait; as though ^ had all the time in the world; before the others arrived/came_back; all by &; only to
 find that it was too late/not_enough; and hoped for the best; and then started/began all over again; but it
 did not help/matter much; and nobody said a word/anything; with the help of an old friend/neighbor; just to
 be on the safe side; and thought about the day ahead/before; and felt a little better/foolish/proud/calmer;
 while the others watched/waited/looked_on; in silence; without thinking/hesitation; and tried not to
 laugh/cry/worry/think about it; a little too late/early/fast; as best ^ could; for what felt like
 hours/an_hour; until ~ back/arms/hands/eyes hurt/ached
# adverb
slowly; carefully; quickly; quietly; finally; already; simply; suddenly; patiently; calmly; never; always;
 often; usually; sometimes; almost; only; even; soon; still; then; once; gladly; reluctantly; barely; nearly;
 rarely; absently; proudly; secretly; hurriedly
# head
began/started to; decided to; wanted to; had to; = about to; tried/attempted to; = supposed to; had
 promised/offered/agreed to; stopped/paused to; managed to; forgot to; = going to; hoped/meant/planned to; =
 glad/happy/ready to; = too tired/busy/proud/polite to; used to; did not want/dare/need to; remembered to; =
 the first/last to; went back to; hurried to; could not wait to; refused to; = determined to; liked/loved to;
 = asked/told to; = allowed to; helped/learned to; = in no hurry to; = careful not to
# thought
that nobody would notice/care/believe it; that it would all be worth it in the end; that there was still
 plenty of/enough time; that it could have been much/far worse; that it was only/hardly a matter of
 time/luck/patience; that something was wrong/missing/different; that things would be easier/better/different
 tomorrow/next_time/in_the_spring; that it was too late/early to change anything; that there must be a
 better/simpler/faster way; that it was going to be a long day/night/winter; that it did not matter any
 more/longer; that somebody had to do it; that there was nothing more/else to be done; that they had been
 lucky/through_worse; that the worst was over; that it was time to go home/rest/begin; that everything had its
 price/place/season; that it had always been like this/that_way; that this was what ^ had wanted/waited_for;
 that ^ had been wrong/right all along; that ^ should have known/said_something/come_earlier; that ^ had
 forgotten something important; that it was nobody's fault/business; that a promise was a promise; that you
 could get used to anything/almost_anything; that some things were better left alone/unsaid; that they would
 laugh about it one day; that it was a good/bad sign/idea; that it might just work; that there were worse ways
 to spend a day/morning/life; that this year would be different/better; that nothing ever happened there; that
 ^ could trust ~ own eyes/hands/judgment; that there was no reason to worry/hurry; that it only needed a
 little time/patience/practice; that the others would understand/wait/help; that no one had ever done it
 better; that ^ would miss it one day; that one mistake was enough
# span
an hour; half an hour; the whole morning/afternoon/day; ten/twenty/five minutes; two/three hours; most of the
 morning/day/night/week; a long time/while; several/a_few days; a quarter of an hour
# tag
said; replied; answered; murmured; explained; called; muttered; whispered; added; insisted; admitted; said
# aside
without looking up/around; with a smile/sigh/frown/grin/nod; in a low/loud/hoarse/friendly/sharp voice; after
 a long/short pause; for the second/third time; over ~ shoulder; a little too loudly/quickly; as if it were
 obvious/nothing; without much hope/interest/conviction; before anyone else could speak/answer; half in
 jest/earnest; from the other side of the room; as gently/calmly as ^ could; through clenched teeth; to nobody
 in particular; and laughed/shrugged/sighed/yawned/blushed; with a glance at the clock/door/sky; and shook ~
 head; when it was quiet again; and meant it; as kindly as possible
# remark
I am not so sure about that; let me think about it; we have all the time in the world; that is easier said
 than done; it will be all right; I thought you knew/had_gone_home; there is no need to shout; you worry too
 much; it was like that when I came; I would rather do it myself; nobody told me anything; we can talk about
 it later/tomorrow; it is always the same with you; I did the best I could; that is what they all say; give it
 a little time; it is better than nothing; I was just about to ask you that; things are not what they used to
 be; you have no idea how tired I am; it cannot be helped; you will see; I have had enough for today; that
 makes two of us; I owe you one; it was worth a try; somebody will come; that was a long time ago; I could get
 used to this; you are right, as usual
# query
are you sure about that?; what are we waiting for?; do you remember the last time?; can I help you?; is
 everything all right?; how long have you been here?; what would you do?; why did nobody tell me?; shall we
 start?; who told you that?; what happened to the other one?; could you come here for a minute?; do you think
 it will work?; has anyone seen my coat/glasses/keys?; what time is it?; is that all?; what do you mean?; and
 then what?
# custom
every morning/day/evening; most mornings/days; as a rule; on Mondays/Fridays/Saturdays/Sundays; in
 summer/winter/spring; before the others arrive; when the weather is good/bad; at the end of the day/week;
 once a week/month/year; if there is time; on a good/bad day; after lunch/work; from time to time; when nobody
 is looking; for as long as anyone can remember; all year round; when it gets late; whatever the weather; in
 the busy/quiet season; on holidays
# reason
the rest will follow; it saves a lot of time; there is no shortcut; it is easy to forget; patience helps; that
 is half the work; mistakes are part of it; nobody gets it right at first/once; practice makes all the
 difference; it is worth the effort/trouble; small things matter; nobody else will do it; it takes longer than
 people think; that is how everyone learns; it looks easier than it is; good habits last; it is better to be
 safe than sorry; the old ways still work; you can always ask for help; it will pay off later; experience is
 the best teacher; not everything can be taught; the first time is the hardest; haste helps no one
# work
hard; slow; easy; dull; honest; thankless; quiet; dirty; heavy; lonely; pleasant; tedious; delicate;
 dangerous; simple; tricky
# mood
tired; cheerful; worried; impatient; relieved; nervous; curious; hungry; thoughtful; surprised; pleased;
 restless; embarrassed; exhausted; proud; grateful; annoyed; uneasy; content; lonely; disappointed; amused;
 puzzled; hopeful; stubborn; calm; determined; skeptical; delighted; weary
"""

FRAMES = """
# start
{time}, {N} {=} {g} {at}.
{time}, {is}.
{state}, and {is}.
{state}, but {N} had already {p}.
{state} when {N} {v}.
{state}, and {N} {=} {g} {at}.
{state} {at}, and {is}.
{time}, {is} when {N} {v}.
{time}, {N} {v} {tail}.
{time}, {N} met {B} {at}.
{time}, {N} {head} {i}, and {B} {V}.
{at}, {is}, and {N} {=} {mood}.
{at}, {N} {v} {tail}.
{at}, {N} {=} {g} when {is}.
{at} there was {see}, and next to it there was {see}.
{is}, and {N} {head} {i}.
{is} when {N} came in and {v}.
{N} had {p}, and now ^ {=} {g} {at}.
{N} had been {at} for {span} when {is}.
{N} {=} standing {at}, {mood} and a little {mood}.
It took {span} until {N} had {p}.
Nobody {at} could say why {N} {head} {i}.
When {N} arrived, {B} {B=} already {G}.
For {span} {N} had been {g}, and {is}.
# body
{S} {v}, and then ^ {v}.
{S} {v} and {v} {tail}.
{S} {v} {tail}.
{S} {v} {tail}.
{S} {adverb} {v}.
{S} {adverb} {v} and {v}.
{S} {v} while {is}.
{S} {v}, and {is}.
{S} {v}, {v}, and {adverb} {v}.
{S} {head} {i}, but {is}.
{S} {head} {i} {tail}.
{S} {head} {i} and {i}.
{S} {=} {g} when {is}.
{S} {=} still {g} when {B} {V}.
{S} had hardly {p} when {is}.
{S} had {p} before {B} {V}.
{S} had {p}, but ^ had not yet {p}.
{N}, who had {p} {tail}, {v}.
{N}, {mood} as ever, {v} {tail}.
{S} {v}, {g} at the same time.
{S} {v} instead of {g}.
{S} {v} without {g}.
{opener}, {S} {v}.
{opener}, {S} {v} {tail}.
{opener}, {S} {v}, and {B} {V}.
{opener}, {S} {head} {i}.
{opener}, {is}, and {S} {v}.
{opener}, {is}, but {S} {adverb} {v}.
{opener}, {B} {V}, and {S} {head} {i}.
After {g}, {S} {v}.
Before {g}, {S} {v} {tail}.
While {S} {v}, {B} {V}.
While {S} {=} {g}, {is}.
While {is}, {S} {v}.
When {S} had {p}, ^ {v}.
When {B} {head_B} {I}, {S} {v}.
As soon as {S} had {p}, {is}.
Once {is}, {S} {head} {i}.
If {S} had not {p}, nobody would have {p}.
{B} {V}, and {S} {v} {tail}.
{B} {V} while {S} {v}.
{B} {V}, but {S} {adverb} {v}.
{B} {B=} {G}, and {S} {v} {tail}.
{B} had {P}, so {S} {v}.
{B} wanted to {I}, but {S} {head} {i}.
{B} asked {@} to {i}, and so ^ {v}.
{B} watched {@} {i} and {i}.
{B} showed {@} how to {i}.
{B} helped {@} {i} and {i}.
{is}, so {S} {v}.
{is}, and {S} {head} {i}.
{is}, but {S} {v} {tail}.
{opener}, {is}, and {is}.
{is} while {S} {v}.
There was {see} {at}, and {is}.
There was {see} {at}, and {S} {adverb} {v}.
{at} lay {see}, {see}, and {see}.
{S} found {see} {at} and {v}.
{S} needed {see}, but there was only {see}.
{S} put down {see} and {v}.
Next to {see} there was {see}, but nobody {at} had noticed it.
{S} told {&} {thought}, and {v}.
{S} thought {thought}, but {is}.
{S} knew {thought}, and yet ^ {v}.
{S} {=} sure {thought}, and {v} {tail}.
{S} {=} {mood}, but ^ {v} {tail}.
{B} said {thought_B}, and {S} {v}.
{opener}, {S} realized {thought}, and {v}.
{opener}, {S} {=} {mood}, and {is}.
It took {@} {span} to {i}.
It took {span} to {i}, and {is}.
It was {work} work to {i}, but ^ {v} {tail}.
There was no need to {i}, but {S} {v} {tail}.
There was nothing left to do but to {i} and {i}.
There was just enough time to {i} before {B} {V}.
The only thing left was to {i}, and {is}.
It was not the first time that {S} had {p}.
It was {B} who {V} while {S} {v}.
Nobody noticed that {S} had {p}, because {is}.
Nobody knew how to {i}, so {S} {v}.
Everyone waited until {S} had {p}, and {is}.
Would ^ ever learn to {i}, or {=} ^ going to {i} for the rest of the year?
Had {B} really {P}, or {B=} {B^} still {G}?
Why did ^ always have to {i} when {is}?
How long would it take to {i} if {is}?
Who else would {i} and {i}?
Some people like to {z}, others prefer to {z}, and {reason}.
For {span}, {S} did nothing but {i}.
For {span}, {is}, and {S} {v}.
Every day ^ {v}, and every day {is}.
It was easy to {i}, but it was much harder to {i}.
To {i}, ^ first had to {i}.
Instead of {g}, {S} {v} {tail}.
{g}, {S} did not notice that {is}.
{g}, {S} wondered whether {B} had {P}.
{g} always made {@} {mood}, and {opener} {is}.
# talk
"{U}," {tag} {B}, and {S} {v}.
"{U}," {tag} {B}, who had just {P}.
"{U}," {B} {tag} {aside_B}.
"{U}," {N} {tag}, {g}.
"{U}," ^ {tag} and {v}.
"{U}," ^ {tag} {aside}.
"{W}" {B} asked {aside_B}, and {is}.
"{W}" asked {B} while {S} {v}.
"{W}" ^ asked {aside}, and {is}.
"{W}" ^ asked and {v}.
"{W}" {B} wanted to know, but {S} {v}.
"I will {m} if you {y}," {N} {tag}.
"I have already {q}," {tag} {B}, but {is}.
"I still have to {m}," ^ {tag}.
"Do you want me to {m}?" asked {B}.
"Did you {y}?" asked {B}, and {S} {v}.
"Have you {Q}?" {B} asked {@}, but {is}.
"You should {y} and then {y}," {tag} {B}.
"You never {y}," {B} complained {aside_B}.
"Let us {o} first, and then we can {o}," ^ suggested.
"We could {o} or at least {o}," {tag} {B} {aside_B}.
"Somebody has to {y}," {N} {tag}, and {B} {V}.
{B} asked whether ^ had {p}, and ^ said {thought}.
{S} asked {B} to {I}, but {is}.
{S} promised to {i} {tail}.
{S} explained to {B} how to {i}.
# end
{opener}, {is}, and {S} went home {tail}.
{opener}, {S} had {p}, and {is}.
For a long time afterwards {S} remembered how {is}, and how {B} had {P}.
By the time ^ had {p}, {is}.
In the end it was {B} who {V}, and nobody {at} complained.
{S} thought of the day when ^ had {p}, and smiled.
Tomorrow ^ would {i} and {i}, but for now {is}.
Nothing more was said about it, and {S} {v}.
{opener}, there was nothing left {at} but {see} and {see}.
{S} looked around once more: {see}, {see}, and {see}.
{S} {v} {tail}, and that was all.
Only when {is} did ^ {i}.
It was enough for one day: ^ had {p}, and {is}.
"{U}," {tag} {B} at last, and {S} {v}.
"Tomorrow we will {o}," {N} {tag}, and {is}.
# habit
{custom}, {N} {s} and {s}.
{custom}, {N} {s}, and {B} {S_}.
{N} always {s} before {B} {S_}.
{custom}, there is {see} {at}, and {N} {s}.
{N} {s}, {s}, and {s}, and {reason}.
{custom}, {B} {S_} while {N} {s}.
{S} never {s} without {g} first.
{S} usually {s} after {g}.
{S} like+ to {i}, but {B} would rather {I}.
{S} say+ that anyone can learn to {y}, because {reason}.
{B} {S_}, because {reason}.
{custom}, it takes {span} to {i}.
{custom}, {S} {s} instead of {g}.
{S} need+ {see} and {see} in order to {i}.
{B} say{B+} that it is best to {i} and to {i}.
If {B} refuse{B+} to {I}, nobody will {i}.
Sometimes {S} {s} and sometimes {B} {S_}, but {reason}.
There are days when {S} {s} for {span} and nothing else.
Nobody {at} {s_} as well as {B}, who {S_} {custom}.
When {S} feel+ {mood}, ^ {s}.
When {B} {S_}, {S} usually {s}.
{see} and {see} are all that {S} need+ to {i}.
{custom}, {S} still {s}, although {reason}.
# advice
If you want to {y}, you should first {y}.
Before you {y}, you have to {y}, even if {reason}.
It is best to {y} while there is still time, because {reason}.
Never {y} before you have {Q}.
Once you have {Q}, you can {y} {custom}.
Always {y} before you {y}, for {reason}.
First {y}, then {y}, and only then {y}.
You will need {see}, {see}, and {span}.
All you need to {y} is {see}, although {see} can be useful, too.
Most people {z} and then {z}.
Many beginners forget to {z}, and {reason}.
Do not {y} if you have never {Q}, for {reason}.
{custom}, you should {y} and {y}.
Some {z} {custom}, while others never {z}.
It takes {span} to {y}, and {reason}.
After you have {Q}, {y}, and remember that {reason}.
There are two ways to do it: you can {y}, or you can {y}.
To {y}, you need {see} and a little patience.
The secret is to {y} {custom} and to {y} when nobody expects it.
Why should anyone {z} when it is so much easier to {z} {custom}?
Is it really {work} work to {y} and to {y}?
Ask someone who has already {pz}, because {reason}.
It is {work} work to {y}, but {reason}.
Keep {see} at hand, and {y} as soon as you have {Q}.
"""
